"""The weights of a trained network as a start for one that knows other speakers or languages."""

from collections.abc import Sequence

import torch
from torch import Tensor

TABLES = {"speakers": ("speaker", "speaker_embedding"), "languages": ("language", "language_embedding")}
"""How the embeddings are called that have a row for every name of these lists of a checkpoint."""


def renamed_rows(weights: dict[str, Tensor], theirs: dict, ours: dict) -> dict[str, Tensor]:
    """`weights` with a row for every speaker and language of `ours`, where they have one for each of `theirs`.

    `theirs` and `ours` are checkpoints or what will be stored in one. A name that both know keeps its row; one that is
    new begins at the mean of all. Rows before those of the names (an aligner's unknown speaker) stay.
    """
    adapted = dict(weights)
    for names, tables in TABLES.items():
        for key, table in weights.items():
            *_, module, kind = f".{key}".split(".")
            if kind == "weight" and module in tables and names in theirs and names in ours:
                adapted[key] = _rows(table, theirs[names], ours[names])
    return adapted


def _rows(table: Tensor, theirs: Sequence[str], ours: Sequence[str]) -> Tensor:
    """table (extra + len(theirs), C) -> (extra + len(ours), C)."""
    extra = len(table) - len(theirs)
    by_name = dict(zip(theirs, table[extra:], strict=True))
    mean = table[extra:].mean(0)
    return torch.stack([*table[:extra], *(by_name.get(name, mean) for name in ours)])
