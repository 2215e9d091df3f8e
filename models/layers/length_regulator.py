"""Between symbols and frames: durations that add up, and features repeated for them."""

import torch
from torch import Tensor


def regulate(x: Tensor, durations: Tensor, n_frames: int) -> tuple[Tensor, Tensor]:
    """x (B, L, C) -> (B, n_frames, C): symbol l repeated durations[b, l] times (FastSpeech, arXiv 1905.09263), and
    (B, n_frames) how far in its symbol each frame is, from 0 to 1. Zeros stand behind the sum of a text's durations.
    """
    B, L, C = x.shape
    ends = durations.cumsum(1)  # (B, L)
    frames = torch.arange(n_frames, device=x.device).expand(B, -1).contiguous()
    # how many symbols have ended, counted frame by frame (which ONNX has; searchsorted it has not)
    ended = ends.new_zeros(B, n_frames + 1).scatter_add(1, ends.clamp(max=n_frames), torch.ones_like(ends))
    index = ended.cumsum(1)[:, :n_frames]  # (B, n_frames)
    inside, index = index < L, index.clamp(max=L - 1)
    repeated = x.gather(1, index.unsqueeze(2).expand(-1, -1, C))
    own = durations.gather(1, index)
    place = (frames - ends.gather(1, index) + own + 0.5) / own.clamp(min=1)
    return repeated * inside.unsqueeze(2), place * inside


def whole_frames(durations: Tensor, rate: float | Tensor = 1.0) -> Tensor:
    """Durations in frames as real numbers (B, L) -> integers (B, L), all together 1 / rate times as long.

    Symbols under half a frame are silent marks: they get none. Every other one keeps at least one frame, so that no
    rate swallows a sound; the sum is within a frame of the wanted one if no sound is that short.
    """
    spoken = durations >= 0.5
    scaled = (durations / rate).clamp(min=1) * spoken
    # round() would give 1.5 and 2.5 the same end
    ends = (scaled.double().cumsum(1) + 0.5).floor().long()
    return ends.diff(dim=1, prepend=ends.new_zeros(len(ends), 1))
