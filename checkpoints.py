"""`G_step<N>.pth` and `D_step<N>.pth`: written whole or not at all, verified before use, found by number.

A file is the ZIP archive that `torch.save` writes, its comment the SHA-256 of all bytes before it: ZIP's own CRC-32
covers neither names nor lengths nor the directory, and a file that is read must be the one written, to the last bit.

`G` holds what is needed to rebuild a network and speak (weights, ema, config, text frontend, speakers, languages)
and, under "training", what only training needs; `D` holds the discriminators and their optimizer. Both load with
`weights_only=True`, so that no code in a file is ever run.
"""

import hashlib
import logging
import os
import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from stage_content import checked_stage

log = logging.getLogger(__name__)

BEST_FILE = "G_best.pth"
"""The `G` that validation liked best, without what only training needs."""

END_RECORD = 22  # bytes of ZIP's end-of-central-directory record without a comment
DIGEST = 64  # hexadecimal digits of a SHA-256


def checkpoint_path(folder: Path, network: str, step: int) -> Path:
    """`folder/G_step<N>.pth` or `folder/D_step<N>.pth`."""
    return folder / f"{network}_step{step}.pth"


def saved_steps(folder: Path) -> list[int]:
    """Steps that have a `G` file, newest first; the files are not opened."""
    matches = (re.fullmatch(r"G_step(\d+)\.pth", path.name) for path in folder.glob("G_step*.pth"))
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def write_checkpoint(content: dict, path: Path) -> None:
    """Saves `content` under a temporary name, syncs it to disk and renames it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w+b") as file:
            torch.save(content, file)
            _add_digest(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer
        if temporary.exists():
            temporary.unlink()
        raise ValueError(f"{path}: could not be saved ({error}); free disk space, then resume") from error


def read_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint on the CPU. ValueError if it is missing, damaged, or no checkpoint of ours."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        with path.open("rb") as file:
            damaged = _damage(file)
            file.seek(0)
            content = None if damaged else torch.load(file, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: truncated or not a checkpoint ({error}); use an earlier one") from error
    except Exception as error:  # a damaged file makes the readers raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: damaged or not a checkpoint of this project ({reason}); use another one") from error
    if damaged:
        raise ValueError(f"{path}: damaged ({damaged}); use an earlier checkpoint")
    if not isinstance(content, dict) or not {"stage", "step", "weights"} <= content.keys():
        raise ValueError(f"{path}: not a checkpoint of this project (no stage, step or weights)")
    return content


def _add_digest(file: BinaryIO) -> None:
    """Makes the SHA-256 of an archive the comment at its end."""
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", DIGEST))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0, os.SEEK_END)
    file.write(digest.encode())


def _damage(file: BinaryIO) -> str | None:
    """What is wrong with the bytes of a checkpoint, None if nothing is. Raises what `zipfile` does if it is no archive.

    Archives that end without a comment were written before there were digests; their CRC-32s are compared.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - END_RECORD))
    ending = file.read()
    if size < END_RECORD or (ending.startswith(b"PK\5\6") and ending.endswith(b"\0\0")):
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        return damaged and f"checksum of {damaged} differs"
    file.seek(max(0, size - END_RECORD - DIGEST))
    ending = file.read(END_RECORD)
    if not ending.startswith(b"PK\5\6"):
        raise zipfile.BadZipFile("it does not end as one does")
    digest, left = hashlib.sha256(), size - DIGEST
    file.seek(0)
    while left:
        part = file.read(min(left, 2**20))
        digest.update(part)
        left -= len(part)
    return None if file.read() == digest.hexdigest().encode() else "its checksum differs"


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Removes what a run that was killed while saving has left: temporary files, and discriminators without their G."""
    unfinished = [*folder.glob("[GD]_*.pth.tmp")]
    unfinished += [path for path in folder.glob("D_step*.pth") if not path.with_name("G" + path.name[1:]).exists()]
    for path in unfinished:
        log.info("%s: not finished when its run ended, removed", path)
        path.unlink()


def set_aside_after(folder: Path, step: int) -> None:
    """Renames the pairs of later steps to `<name>.aside`: a run that goes on from `step` must not take them for its
    own."""
    for later in saved_steps(folder):
        for path in (checkpoint_path(folder, network, later) for network in ("G", "D")):
            if later > step and path.exists():
                aside = path.with_name(path.name + ".aside")
                log.warning("%s: not gone on from, set aside as %s", path, aside.name)
                path.replace(aside)


def newest_checkpoint(folder: str | Path) -> tuple[dict, dict | None] | None:
    """The newest whole (G, D) pair of a stage folder, D None for a stage without discriminators; None if there is none.

    Damaged files are named in the log and passed over; ValueError if nothing but damaged ones is there.
    """
    folder = Path(folder)
    steps = saved_steps(folder)
    for step in steps:
        try:
            generator = read_checkpoint(checkpoint_path(folder, "G", step))
            adversarial = generator.get("has_discriminator", False)
            return generator, read_checkpoint(checkpoint_path(folder, "D", step)) if adversarial else None
        except ValueError as error:
            log.warning("passed over: %s", error)
    if steps:
        raise ValueError(f"{folder}: none of {len(steps)} checkpoints is whole; restore one or take another model")
    return None


def require_checkpoint(folder: str | Path, command: str) -> dict:
    """The newest `G` of a folder `.../<stage>`; ValueError naming the `command` that makes one if there is none."""
    found = newest_checkpoint(folder)
    if found is None:
        raise ValueError(f"{folder}: no checkpoint; train one first: {command}")
    if found[0]["stage"] != Path(folder).name:
        raise ValueError(f"{folder}: holds checkpoints of stage {found[0]['stage']}; move them to their own folder")
    return checked_stage(found[0], folder)


def load_weights(network: nn.Module, weights: dict, source: object) -> None:
    """Puts weights into a network. ValueError with the first few that are missing, unknown or of another shape."""
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is unknown here" for name in weights if name not in own]
    problems += [
        f"{name} is {tuple(weights[name].shape)} in the file, {tuple(value.shape)} here"
        for name, value in own.items() if name in weights and weights[name].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{source}: its weights do not fit this config: {'; '.join(problems[:3])}{more}")
    network.load_state_dict(weights)


def network_weights(checkpoint: dict) -> dict:
    """The weights to speak with: the moving average where there is one, else the trained ones."""
    return checkpoint.get("ema") or checkpoint["weights"]
