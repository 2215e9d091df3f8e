"""Writes a trained model as one folder that speaks without its checkpoints: settings as JSON, weights as safetensors.

    python3 export.py -m my_model -o voices/my_voice
    python3 export.py -m my_model -o voices/my_voice --precision fp32
    python3 export.py -m voices/default -o voices/hello --onnx
    python3 synthesize.py -m voices/my_voice --text "Hello world" -o hello.wav

The folder has the newest weights (their moving average where there is one) of the stages that speaking needs, the text
frontend's table and lexicon, speakers and languages. Of a model over our own codec it has the codec too, for
references; EnCodec stays where `codec.path` says. fp16 halves the matrices; what they are used in is float32. int8
quarters those of a language model, one scale an output, and makes it faster on a CPU.

With `--onnx` the folder also has the networks as ONNX files, which onnx_voice.py speaks with: text encoder (or language
model), mel decoder and vocoder, each checked against PyTorch. This needs requirements-export.txt.
"""

import argparse
import logging
from pathlib import Path
from typing import get_args

import torch

import cli
from synthesis import load_system
from synthesis.synthesizer import model_folder
from voice_folder import Precision, write_voice

log = logging.getLogger(__name__)


def add_onnx(folder: Path) -> None:
    """Adds ONNX files to an exported voice; ValueError if what this needs is not installed."""
    try:
        from onnx_export.files import write_onnx
    except ModuleNotFoundError as error:
        raise ValueError(f"--onnx needs {error.name}, which is not installed: "
                         "pip install -r requirements-export.txt") from error
    write_onnx(folder, load_system(folder, torch.device("cpu")))  # with the weights that were written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", required=True, help="name under checkpoints/, or an exported voice's folder")
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder, e.g. voices/my_voice")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp16",
                        help="of the weights on disk; int8: a language model's matrices, which it then also speaks "
                        "with on a CPU, and fp16 for the rest")
    parser.add_argument("--best", action="store_true", help="the checkpoint of each stage that its validation liked "
                        "best (G_best.pth, see train.<stage>.evaluate), not the newest")
    parser.add_argument("--onnx", action="store_true", help="also as ONNX files, for onnx_voice.py")
    options = parser.parse_args()

    source = model_folder(options.model, "checkpoints")
    if not source.is_dir():
        raise ValueError(f"{source}: no such model; name one under checkpoints")
    # refuses stages that do not fit each other, and int8 where it is of no use
    system = load_system(source, torch.device("cpu"), "int8" if options.precision == "int8" else None)
    size = write_voice(options.output, source, system.name, system.stages, options.precision, system.matrices,
                       add_onnx if options.onnx else None, options.best)
    log.info("%s: %s system, %s, %.1f MB in all, speakers %s, languages %s", options.output, system.name,
             options.precision, size / 1e6, ", ".join(system.speakers), ", ".join(system.languages))


if __name__ == "__main__":
    cli.run(main)
