"""`G_step<N>.pth` and `D_step<N>.pth`: written whole or not at all, verified before use, found by number.

`G` holds what is needed to rebuild a network and speak (weights, ema, config, text frontend, speakers, languages)
and, under "training", what only training needs; `D` holds the discriminators and their optimizer. Both load with
`weights_only=True`, so that no code in a file is ever run.
"""

import logging
import os
import re
import zipfile
from pathlib import Path

import torch
from torch import nn

log = logging.getLogger(__name__)

BEST_FILE = "G_best.pth"
"""The `G` that validation liked best, without what only training needs."""


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
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
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
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # compares every record with its CRC-32
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: truncated or not a checkpoint ({error}); use an earlier one") from error
    except Exception as error:  # a damaged file makes the readers raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: damaged or not a checkpoint of this project ({reason}); use another one") from error
    if damaged:
        raise ValueError(f"{path}: damaged (checksum of {damaged} differs); use an earlier checkpoint")
    if not isinstance(content, dict) or not {"stage", "step", "weights"} <= content.keys():
        raise ValueError(f"{path}: not a checkpoint of this project (no stage, step or weights)")
    return content


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
    return found[0]


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
