"""Several clips in one row, one behind the other: to the network as rows, to everything else still as clips."""

import torch
from torch import Tensor


def pack(clips: Tensor, lengths: Tensor, row: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """clips (B, T, D) of `lengths` (B,) -> rows (R, P, D), clip b in row[b] from offset[b] on, and their position ids
    (R, P), which start at 0 in every clip. Free places hold zeros and positions 0."""
    valid, target, (R, P) = _places(clips.shape[1], lengths, row, offset)
    place = torch.arange(clips.shape[1], device=clips.device).expand(valid.shape)
    rows = clips.new_zeros(R * P, clips.shape[2]).index_copy(0, target[valid], clips[valid])
    positions = torch.zeros(R * P, dtype=torch.long, device=clips.device).index_copy(0, target[valid], place[valid])
    return rows.view(R, P, -1), positions.view(R, P)


def unpack(rows: Tensor, lengths: Tensor, row: Tensor, offset: Tensor) -> Tensor:
    """The inverse: rows (R, P, D) -> clips (B, T, D). What lies behind a clip's own length has no meaning."""
    _, target, (R, P) = _places(int(lengths.max()), lengths, row, offset)
    return rows.flatten(0, 1)[target.clamp(max=R * P - 1)]


def _places(longest: int, lengths: Tensor, row: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Which places of (B, T) are a clip's own, where they are in the flattened rows, and the size of the rows."""
    size = int(row.max()) + 1, int((offset + lengths).max())
    place = torch.arange(longest, device=lengths.device).unsqueeze(0)  # (1, T)
    return place < lengths.unsqueeze(1), (row * size[1] + offset).unsqueeze(1) + place, size
