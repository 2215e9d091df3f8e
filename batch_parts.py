"""A batch in parts, for memory that does not hold the whole."""

from collections.abc import Callable

import torch
from torch import Tensor


def clips_in(batch: dict) -> int:
    """How many clips a batch is of."""
    return len(batch["name"])


def split_batch(batch: dict, n_parts: int, weigh: Callable[[dict], float] = clips_in) -> list[tuple[dict, float]]:
    """A collated batch in at most `n_parts` parts of about as many clips (rows, where they are packed) each, without
    the padding that a part does not need; and the share of `weigh` that each has of the whole."""
    rows = batch.get("row", torch.arange(clips_in(batch)))
    # no part without a clip
    groups = [group for group in torch.arange(int(rows.max()) + 1).chunk(n_parts) if len(group)]
    parts = [_chosen(batch, torch.isin(rows, group), int(group[0])) for group in groups]
    weights = [float(weigh(part)) for part in parts]
    return [(part, weight / sum(weights)) for part, weight in zip(parts, weights, strict=True)]


def _chosen(batch: dict, chosen: Tensor, first_row: int) -> dict:
    """The clips of a batch where `chosen` (B,) is True, their rows counted from `first_row`."""
    places = chosen.nonzero().flatten()
    part = {key: value[places] if torch.is_tensor(value) else [value[i] for i in places]
            for key, value in batch.items()}
    if "row" in part:
        part["row"] = part["row"] - first_row
    for key in part:
        if f"{key}_lengths" in part:
            part[key] = part[key][..., : int(part[f"{key}_lengths"].max())]
    return part
