"""Draws the loss curves of a model's stages from their TensorBoard logs.

    python3 plot_curves.py -m my_model -o docs/curves.png
    python3 plot_curves.py -m my_model --stages vocoder --all -o docs/vocoder_curves.png
"""

import argparse
import logging
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cli
from plotting import curves_figure, save_figure

log = logging.getLogger(__name__)

NOT_LOSSES = ("gradient_norm", "learning_rate", "steps_per_second", "perplexity", "usage", "score", "spoken")


def read_curves(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Every scalar under a log folder: name -> (steps, values); of a repeated step, the later."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    curves = {}
    for tag in accumulator.Tags()["scalars"]:
        by_step = {event.step: event.value for event in accumulator.Scalars(tag)}
        steps = sorted(by_step)
        curves[tag] = steps, [by_step[step] for step in steps]
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG")
    parser.add_argument("--all", action="store_true",
                        help="also learning rate, gradient norms, code usage, speed, figures of speech")
    parser.add_argument("--stages", nargs="+", metavar="STAGE", help="only these, e.g. vocoder; all if not given")
    options = parser.parse_args()

    folder = Path("logs") / options.model
    stages = sorted(path.name for path in folder.glob("*"))
    unknown = sorted(set(options.stages or []) - set(stages))
    if unknown:
        raise ValueError(f"{folder}: no logs of {', '.join(unknown)}; there are those of {', '.join(stages) or 'none'}")
    curves = {
        f"{stage}: {tag}": curve
        for stage in options.stages or stages
        for tag, curve in read_curves(folder / stage).items()
        if options.all or not any(part in tag for part in NOT_LOSSES)
    }
    if not curves:
        raise ValueError(f"{folder}: no TensorBoard logs there; train a stage of this model first")
    save_figure(curves_figure(curves), options.output)
    log.info("%s: %d curves", options.output, len(curves))


if __name__ == "__main__":
    cli.run(main)
