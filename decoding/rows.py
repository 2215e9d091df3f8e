"""What is known of every text that is being spoken, in tensors that stay in their place."""

from collections import namedtuple
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from decoding.draw_kernel import UNKNOWN, draw
from models.layers.delay import steps_for
from models.layers.sampling import Sampling, choose
from models.token_lm import TokenLM


@dataclass
class Rows:
    """One row a text: R rows, K codebooks, S steps at most. The history's last place is for what nobody reads."""

    positions: Tensor
    """(R,) where the next embedding goes, which is how many have gone before"""
    steps: Tensor
    """(R,) how many have been drawn"""
    bounds: Tensor
    """(R,) the most frames"""
    frames: Tensor
    """(R,) UNKNOWN until codebook 0 has said end"""
    done: Tensor
    """(R,) whether the last step is drawn"""
    late: Tensor
    """(R, K, K - 1 or 1) what codebooks after the first are given, being late"""
    recent: Tensor
    """(R, K, W) the last codes, -1 before the first"""
    uniform: Tensor
    """(R, S or 0, K, 2) the numbers that decide the draws"""
    codes: Tensor
    """(R, K, S + 1)"""
    hidden: Tensor
    """(R, D) the state that the next step is drawn from"""
    logits: Tensor
    """(R, K x (codebook_size + 2))"""
    states: Tensor
    """(R, S + 1 or 0, D) every `hidden`, where the states are wanted"""
    keys: Tensor
    """(layers, R, kv heads, positions, head size)"""
    values: Tensor

    @classmethod
    def allocate(
        cls, lm: TokenLM, cache_shape: tuple[int, int, int], sampling: Sampling, n: int, n_positions: int,
        with_states: bool,
    ) -> "Rows":
        """n rows of up to `n_positions` positions; `cache_shape`: layers, kv heads, head size."""
        device, K, D, S = lm.heads[0].weight.device, lm.n_codebooks, lm.config.hidden_size, n_positions
        layers, kv_heads, size = cache_shape

        def integers(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.long, device=device)

        def floats(*shape: int) -> Tensor:
            return torch.zeros(*shape, device=device)

        return cls(
            positions=integers(n), steps=integers(n), bounds=integers(n), frames=integers(n),
            done=torch.ones(n, dtype=torch.bool, device=device), late=integers(n, K, steps_for(0, K)),
            recent=integers(n, K, sampling.repetition_window), codes=integers(n, K, S + 1),
            uniform=floats(n, S if sampling.temperature else 0, K, 2), hidden=floats(n, D),
            logits=floats(n, K * (lm.codebook_size + 2)), states=floats(n, S + 1 if with_states else 0, D),
            keys=floats(layers, n, kv_heads, n_positions, size), values=floats(layers, n, kv_heads, n_positions, size),
        )

    def begin(self, row: int, position: int, bound: int, late: Tensor, seed: int) -> None:
        """A text starts in this row, `position` embeddings of which the network has read."""
        self.positions[row], self.bounds[row] = position, bound
        self.steps[row], self.frames[row], self.done[row], self.recent[row] = 0, UNKNOWN, False, UNKNOWN
        self.late[row] = late
        generator = torch.Generator(self.uniform.device).manual_seed(seed)
        self.uniform[row] = torch.rand(self.uniform.shape[1:], device=self.uniform.device, generator=generator)

    def arrays(self) -> "RowArrays":
        """On a CPU: the same memory for compiled functions."""
        return RowArrays(*(getattr(self, name).numpy() for name in RowArrays._fields))

    def move(self, source: int, target: int) -> None:
        """One row's text goes on in another one."""
        used = int(self.positions[source])
        for cache in (self.keys, self.values):
            cache[:, target, :, :used] = cache[:, source, :, :used]
        for name in (field.name for field in fields(self)):
            if name not in ("keys", "values"):
                getattr(self, name)[target] = getattr(self, name)[source]


RowArrays = namedtuple("RowArrays", [field.name for field in fields(Rows)])
"""The same in NumPy arrays, which share their memory."""


class Drawing:
    """Draws the next step of the delay pattern for the first rows, as `TokenLM.generate` does."""

    def __init__(self, lm: TokenLM, sampling: Sampling):
        self.lm, self.sampling, K, device = lm, sampling, lm.n_codebooks, lm.heads[0].weight.device
        self.never = torch.zeros(K, lm.codebook_size + 2, device=device)
        self.never[:, lm.begin] = self.never[1:, lm.end] = -torch.inf
        self.codebook = torch.arange(K, device=device)
        self.tail = torch.full((K,), lm.pad, device=device)  # what stands in the place of the first code past the end
        self.tail[0] = lm.end
        self.numbers = (float(sampling.temperature), sampling.top_k, float(sampling.top_p),
                        float(sampling.repetition_threshold))  # as the kernel takes them

    def __call__(self, rows: Rows, A: int) -> None:
        """Draws step `rows.steps` of the first A rows from their logits."""
        if rows.logits.device.type != "cpu":
            self.by_tensors(rows, A)
            return
        arrays = (rows.steps, rows.bounds, rows.frames, rows.done, rows.late, rows.recent, rows.uniform, rows.codes)
        draw(self.numbers, *(array.numpy() for array in arrays), rows.logits[:A].numpy())

    def by_tensors(self, rows: Rows, A: int) -> None:
        """The same on any device, without waiting for it."""
        lm, sampling, K = self.lm, self.sampling, self.lm.n_codebooks
        every, steps, frames = torch.arange(A, device=rows.steps.device), rows.steps[:A], rows.frames[:A]
        logits = rows.logits[:A].view(A, K, -1) + self.never
        logits[:, 0, lm.end].masked_fill_(steps == 0, -torch.inf)  # speech has at least one frame
        if sampling.temperature:
            uniform = rows.uniform[every, steps.clamp(max=rows.uniform.shape[1] - 1)]
            drawn = choose(logits, sampling, rows.recent[:A], uniform)
        else:
            drawn = logits.argmax(-1)
        unknown = frames == UNKNOWN
        drawn[:, 0].masked_fill_(unknown & (rows.bounds[:A] <= steps), lm.end)
        torch.where(unknown & (drawn[:, 0] == lm.end), steps, frames, out=frames)
        # what the training sequence holds in these places
        time = steps.unsqueeze(1) - self.codebook  # (A, K)
        late = rows.late[every, :, steps.clamp(max=rows.late.shape[2] - 1)]
        drawn = torch.where(time < 0, late, drawn)
        ended = frames.unsqueeze(1)
        drawn = torch.where((ended != UNKNOWN) & (time >= ended),
                            torch.where(time == ended, self.tail, lm.pad), drawn)
        rows.codes[every, :, steps.clamp(max=rows.codes.shape[2] - 1)] = drawn
        if sampling.repetition_window:
            rows.recent[:A] = torch.cat([rows.recent[:A, :, 1:], drawn.unsqueeze(2)], dim=2)
        steps += 1
        rows.done[:A] = (frames != UNKNOWN) & (steps >= steps_for(frames, K))
