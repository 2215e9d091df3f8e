"""Draws the loss curves of a model's stages from their TensorBoard logs.

    python3 plot_curves.py -m my_model -o docs/curves.png
    python3 plot_curves.py -m my_model --stages vocoder --all -o docs/vocoder_curves.png
"""

import argparse
import logging
from pathlib import Path

import cli
from plotting import curves_figure, save_figure
from training_logs import grouped, is_loss, read_curves

log = logging.getLogger(__name__)


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
    panels = {}
    for stage in options.stages or stages:
        curves = {tag: curve for tag, curve in read_curves(folder / stage).items() if options.all or is_loss(tag)}
        panels |= {f"{stage}: {name}": panel for name, panel in grouped(curves).items()}
    if not panels:
        raise ValueError(f"{folder}: no TensorBoard logs there; train a stage of this model first")
    save_figure(curves_figure(panels), options.output)
    log.info("%s: %d panels", options.output, len(panels))


if __name__ == "__main__":
    cli.run(main)
