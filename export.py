"""Writes a trained model as one folder that speaks without its checkpoints: settings as JSON, weights as safetensors.

    python3 export.py -m my_model -o voices/my_voice
    python3 export.py -m my_model -o voices/my_voice --precision fp32
    python3 synthesize.py -m voices/my_voice --text "Hello world" -o hello.wav

The folder has the newest weights (their moving average where there is one) of the stages that speaking needs, the text
frontend's table and lexicon, speakers and languages. Of a model over our own codec it has the codec too, for
references; EnCodec stays where `codec.path` says. fp16 halves the matrices; what they are used in is float32.
"""

import argparse
import logging
from pathlib import Path

import torch

import cli
from synthesis import load_system
from voice_folder import write_voice

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", required=True, help="name under checkpoints/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder, e.g. voices/my_voice")
    parser.add_argument("--precision", choices=["fp16", "fp32"], default="fp16", help="of the weights on disk")
    options = parser.parse_args()

    source = Path("checkpoints") / options.model
    if not source.is_dir():
        raise ValueError(f"{source}: no such model; name one under checkpoints")
    system = load_system(source, torch.device("cpu"))  # refuses stages that do not fit each other
    size = write_voice(options.output, source, system.name, system.stages, options.precision)
    log.info("%s: %s system, %s, %.1f MB in all, speakers %s, languages %s", options.output, system.name,
             options.precision, size / 1e6, ", ".join(system.speakers), ", ".join(system.languages))


if __name__ == "__main__":
    cli.run(main)
