"""An exported voice: a folder with `model.json` and, for every stage that speaking needs, `<stage>.safetensors`.

A stage is the same from an exported voice as from its checkpoints (`checkpoints.py`), without what only training needs.
The weights are bound to `model.json` by their SHA-256, so that a damaged file or one of another voice is refused; no
file can run code.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from checkpoints import BEST_FILE, network_weights, read_checkpoint, require_checkpoint, saved_steps
from decoding.weights import to_int8
from stage_content import checked_stage

log = logging.getLogger(__name__)

MODEL_FILE = "model.json"
LEXICON_FILE = "lexicon.txt"
NOT_EXPORTED = ("weights", "ema", "training", "has_discriminator", "stage", "step")

SCALE = ".int8_scale"
"""Ends the name of what an int8 matrix is to be multiplied with."""

Precision = Literal["fp16", "fp32", "int8"]


class ExportedStage(BaseModel):
    """What a checkpoint of a stage holds beside its weights, and which file has these."""

    model_config = ConfigDict(extra="forbid")

    step: int
    sha256: str
    """Of `<stage>.safetensors`."""
    metadata: dict[str, Any]
    """Config, text frontend, speakers, languages, codec, ... as in the checkpoint."""


class ExportedModel(BaseModel):
    """The content of `model.json`."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["llm-istft-vits voice"]
    version: Literal[1]
    system: str
    precision: Precision
    packages: dict[str, str]
    """Versions it was written with, for information."""
    stages: dict[str, ExportedStage]


def is_exported(folder: Path) -> bool:
    """Whether a folder is an exported voice; the file is not opened."""
    return (folder / MODEL_FILE).is_file()


def has_stage(folder: Path) -> bool:
    """Whether a model's stage `.../<stage>` is there, in an exported voice or as checkpoints."""
    if is_exported(folder.parent):
        return folder.name in read_model(folder.parent).stages
    return bool(saved_steps(folder))


def stored_precision(folder: Path) -> Precision:
    """In what a model's weights are stored: checkpoints in fp32."""
    return read_model(folder).precision if is_exported(folder) else "fp32"


def require_stage(folder: str | Path, command: str) -> dict:
    """A stage `.../<stage>` of an exported voice, or its newest checkpoint: a dict of weights, config, speakers, ...

    ValueError naming the `command` that makes one if there is none, or what is damaged.
    """
    folder = Path(folder)
    if is_exported(folder.parent):
        return read_stage(folder.parent, folder.name)
    return require_checkpoint(folder, command)


def read_model(folder: Path) -> ExportedModel:
    """What an exported voice's `model.json` says; ValueError if it is missing, damaged, or of another format."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: no exported voice, it has no {MODEL_FILE}; make one with: "
                         f"python3 export.py -m MODEL -o {folder}")
    try:
        return ExportedModel.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path}: damaged, or not of this version's format ({where}: {first['msg']}); "
                         "export the voice again") from error


def read_stage(folder: Path, stage: str) -> dict:
    """One stage of an exported voice as a checkpoint's dict, on the CPU, its weights float32 whatever the file has.

    ValueError if the voice has no such stage, or if its file is missing, damaged, or another voice's.
    """
    model = read_model(folder)
    if stage not in model.stages:
        raise ValueError(f"{folder}: an exported voice with {' and '.join(model.stages)} alone, {stage} is needed for "
                         "this; use the checkpoints it was exported from")
    entry, path = model.stages[stage], folder / f"{stage}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: missing; export the voice again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise ValueError(f"{path}: damaged, or of another voice than {MODEL_FILE} beside it; export the voice again")
    try:
        stored = safetensors.torch.load(content)
        weights = {name: _single(name, stored) for name in stored if not name.endswith(SCALE)}
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:  # its SHA-256 is right, it was written so
        raise ValueError(f"{path}: holds no weights of a voice ({error}); export the voice again") from error
    read = {**entry.metadata, "stage": stage, "step": entry.step, "weights": weights, "ema": None}
    read = checked_stage(read, path)
    if read["config"]["text"]["lexicon"]:
        read["config"]["text"]["lexicon"] = str(folder / LEXICON_FILE)
    return read


def write_voice(
    folder: Path, source: Path, system: str, stages: dict[str, str], precision: Precision,
    matrices: dict[str, dict[str, int]], complete: Callable[[Path], None] | None = None, best: bool = False,
) -> int:
    """Writes the `stages` of the model in `source` as an exported voice, whole or not at all; gives its size in bytes.

    `stages`: for every stage the beginning of the names of the weights to take; the text frontend's is the first.
    `matrices`: of a stage, the names of those that int8 is for, and which dimension is the inputs. `complete`: adds to
    the voice, in the folder it is given, what is made of it. `best`: the checkpoints that their validation chose; of a
    codec the newest, whose codes the others speak. ValueError if `folder` is there already, or a weight is too large
    for the precision.
    """
    if folder.exists():
        raise ValueError(f"{folder}: is there already; remove it, or take another -o")
    temporary = folder.with_name(folder.name + ".tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    try:
        written = {name: _write_stage(temporary, source / name, best and name != "codec", prefix, precision,
                                      matrices.get(name, {}), i == 0)
                   for i, (name, prefix) in enumerate(stages.items())}
        model = ExportedModel(
            format="llm-istft-vits voice", version=1, system=system, precision=precision, stages=written,
            packages={name: version(name) for name in ("torch", "safetensors")},
        )
        (temporary / MODEL_FILE).write_text(model.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if complete is not None:
            complete(temporary)
        size = sum(path.stat().st_size for path in temporary.iterdir())
        os.replace(temporary, folder)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
    return size


def _chosen(folder: Path, best: bool) -> dict:
    """The stage to export; ValueError if its best checkpoint is wanted and there is none."""
    if not best:
        return require_stage(folder, "train it")
    if is_exported(folder.parent):
        raise ValueError(f"{folder.parent}: an exported voice has one checkpoint of a stage; leave out --best")
    return checked_stage(read_checkpoint(folder / BEST_FILE), folder / BEST_FILE)


def _write_stage(
    folder: Path, source: Path, best: bool, prefix: str, precision: Precision, matrices: dict[str, int],
    speaks_text: bool,
) -> ExportedStage:
    checkpoint = _chosen(source, best)
    stage = checkpoint["stage"]
    metadata = {name: value for name, value in checkpoint.items() if name not in NOT_EXPORTED}
    lexicon = metadata["config"]["text"]["lexicon"]
    if lexicon and speaks_text:
        shutil.copyfile(lexicon, folder / LEXICON_FILE)
    metadata["config"]["text"]["lexicon"] = LEXICON_FILE if lexicon and speaks_text else None
    # a codec's fingerprint is that of its exact weights
    whole = precision == "fp32" or stage == "codec"
    weights = {}
    for name, value in network_weights(checkpoint).items():
        if precision == "int8" and name in matrices:
            weights[name], weights[name + SCALE] = to_int8(value, matrices[name])
        elif name.startswith(prefix):
            weights[name] = value.clone() if whole else _half(name, value, source)
    content = safetensors.torch.save(weights)
    (folder / f"{stage}.safetensors").write_bytes(content)
    count = sum(value.numel() for name, value in weights.items() if not name.endswith(SCALE))
    log.info("%s: step %d, %.2f M weights, %.1f MB", source, checkpoint["step"], count / 1e6, len(content) / 1e6)
    return ExportedStage(step=checkpoint["step"], sha256=hashlib.sha256(content).hexdigest(), metadata=metadata)


def _single(name: str, stored: dict[str, Tensor]) -> Tensor:
    """A weight as float32, as far as it was written with less."""
    value = stored[name]
    if value.dtype == torch.int8:
        return value * stored[name + SCALE]
    return value.float() if value.dtype == torch.float16 else value


def _half(name: str, value: Tensor, source: Path) -> Tensor:
    """Matrices and kernels in half precision; what is small (norms, biases, statistics) stays as it is."""
    if value.dtype != torch.float32 or value.ndim < 2:
        return value.clone()
    half = value.half()
    if not half.isfinite().all():
        raise ValueError(f"{source}: {name} has values that fp16 cannot hold; export with --precision fp32")
    return half
