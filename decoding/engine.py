"""Codes for many texts at once: finished texts make room for waiting ones, and no step waits for another device."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from decoding import kernel
from decoding.functional import Functional
from decoding.rows import Drawing, RowArrays, Rows
from decoding.steps_kernel import take_steps
from decoding.weights import quantized, read_weights, restored
from models.layers.delay import steps_for, undelay
from models.layers.sampling import Sampling
from models.token_lm import Generated, TokenLM

KERNEL_ROWS = {"fp32": 8, "int8": math.inf}
"""Up to so many rows the kernel is faster than PyTorch."""
POSITIONS = 256
"""The cache is made for a multiple of so many."""
STEPS_PER_LOOK = 8
"""After so many steps it is asked which texts have ended."""
WARM_UP_STEPS = 3


@dataclass
class Session:
    """Rows; on a CPU their arrays; on a GPU the graphs of a step over the first 1, 2, 4, ... of them."""

    key: tuple
    rows: Rows
    draw: Drawing
    arrays: RowArrays | None = None
    graphs: dict[int, torch.cuda.CUDAGraph] = field(default_factory=dict)


class Decoder:
    """`TokenLM.generate`, many times as fast, with a copy of the weights as they are now.

    `rows`: how many texts are spoken at once. `precision` "int8" (on a CPU) keeps the matrices in 8 bits, one scale an
    output. ValueError for int8 elsewhere.
    """

    def __init__(self, lm: TokenLM, *, rows: int = 32, precision: str = "fp32"):
        self.lm, self.n_rows, self.precision = lm, rows, precision
        self.device = lm.heads[0].weight.device
        if precision == "int8" and self.device.type != "cpu":
            raise ValueError(f"int8 decoding is for CPUs, the model is on {self.device.type}: use fp32")
        weights = read_weights(lm.body, [head.weight for head in lm.heads])
        kept = quantized(weights) if precision == "int8" else weights
        self.functional = Functional(restored(kept) if precision == "int8" else weights)
        on_cpu = self.device.type == "cpu"
        self.kernel_weights = kernel.arrays_of(kept, copied=True) if on_cpu else None
        size = lm.config.head_size or lm.config.hidden_size // lm.config.n_heads
        self.cache_shape = (lm.config.n_layers, weights.n_kv_heads, size)
        with torch.no_grad():
            self.code_table = torch.stack([embedding.weight for embedding in lm.code_embeddings])
        self.code_array = self.code_table.numpy() if on_cpu else None
        self.codebook = torch.arange(lm.n_codebooks, device=self.device)
        self.threads = ThreadPoolExecutor(thread_name_prefix="decoder")
        self.session: Session | None = None

    @torch.inference_mode()
    def generate(
        self, text: list[Tensor], speaker: Tensor, language: Tensor, max_frames: list[int], sampling: Sampling,
        generator: torch.Generator | list[torch.Generator | None] | None = None, *,
        prompts: list[Tensor | None] | None = None, voices: list[Tensor | None] | None = None,
        with_states: bool = False,
    ) -> list[Generated]:
        """What `TokenLM.generate` gives, the same codes if greedy.

        What is drawn for a text depends on its own generator, or on the one of all and on its place in the list, not on
        the other texts. Longer texts start first, so that those spoken together are of about one length.
        """
        B = len(text)
        given = list(zip(text, prompts or [None] * B, voices or [None] * B, strict=True))
        bounds = self.lm.bounds(given, max_frames, with_states, self.device).tolist()
        starts = [self.lm.start(*one, speaker[i : i + 1], language[i : i + 1]) for i, one in enumerate(given)]
        generators = generator if isinstance(generator, list) else [generator] * B
        seeds = [_draw_seed(own) for own in generators]

        # one position more than is read: where a finished text goes while others are not
        lengths = [len(start) + steps_for(bound, self.lm.n_codebooks) + 1
                   for (start, _), bound in zip(starts, bounds, strict=True)]
        session = self._session(min(B, self.n_rows), max(lengths, default=0), sampling, with_states)
        rows = session.rows
        rows.done.fill_(True)
        waiting = deque(sorted(range(B), key=lambda i: -lengths[i]))
        speaking: list[int] = []  # which text is in each of the first rows
        results: list[Generated | None] = [None] * B
        free = list(range(min(B, self.n_rows)))
        while waiting or speaking:
            if admitted := [(row, waiting.popleft()) for row in free[: len(waiting)]]:
                self._start(rows, [(row, *starts[i]) for row, i in admitted])
                for row, i in admitted:
                    rows.begin(row, len(starts[i][0]), bounds[i], starts[i][1], seeds[i])
                    speaking[row : row + 1] = [i]
            self._advance(session, len(speaking))
            done = rows.done[: len(speaking)].tolist()
            free = [row for row, ended in enumerate(done) if ended]
            for row in free:
                i, count = speaking[row], int(rows.frames[row])
                results[i] = self._frames(rows, row, count, "length" if count == bounds[i] else "stop", with_states)
            for row in reversed(free[len(waiting) :]):
                last = len(speaking) - 1
                if row != last:
                    rows.move(last, row)
                    speaking[row] = speaking[last]
                rows.done[last] = True
                speaking.pop()
        return results

    @torch.inference_mode()
    def stream(
        self, text: Tensor, speaker: Tensor, language: Tensor, max_frames: int, sampling: Sampling,
        generator: torch.Generator | None = None, *, prompt: Tensor | None = None, voice: Tensor | None = None,
        with_states: bool = False,
    ) -> Iterator[Generated]:
        """What `generate` gives for one text, with speaker and language (1,), again and again while it grows: all
        frames that are complete; the last one has a `finish_reason`. Several streams can be read in turns."""
        given, K = (text, prompt, voice), self.lm.n_codebooks
        bound = int(self.lm.bounds([given], [max_frames], with_states, self.device)[0])
        start, late = self.lm.start(*given, speaker, language)
        session = self._session(1, len(start) + steps_for(bound, K) + 1, sampling, with_states)
        self.session, rows = None, session.rows  # its rows are this text's until it has ended
        try:
            rows.done.fill_(True)
            self._start(rows, [(0, start, late)])
            rows.begin(0, len(start), bound, late, _draw_seed(generator))
            while not bool(rows.done[0]):
                self._advance(session, 1, 1)
                # the last codebook is K - 1 steps late
                count, reason = int(rows.steps[0]) - K + 1, None
                if bool(rows.done[0]):
                    count = int(rows.frames[0])
                    reason = "length" if count == bound else "stop"
                if count > 0:
                    yield self._frames(rows, 0, count, reason, with_states)
        finally:
            self.session = session

    def _session(self, n: int, n_positions: int, sampling: Sampling, with_states: bool) -> Session:
        """Rows for n texts; those of the last call where they fit, with their graphs."""
        most = self.lm.config.max_positions
        n_positions = min(-(-n_positions // POSITIONS) * POSITIONS, most)
        if self.device.type == "cuda":  # one shape whatever the texts are, for the graphs
            n, n_positions = bucket(n, self.n_rows), most
        key, last = (sampling, with_states), self.session
        if last is None or last.key != key or last.rows.keys.shape[1] < n or last.rows.keys.shape[3] < n_positions:
            rows = Rows.allocate(self.lm, self.cache_shape, sampling, n, n_positions, with_states)
            arrays = rows.arrays() if self.kernel_weights is not None else None
            self.session = Session(key, rows, Drawing(self.lm, sampling), arrays)
        return self.session

    def _start(self, rows: Rows, texts: list[tuple[int, Tensor, Tensor]]) -> None:
        """Reads what is given before the first new frame, of several texts together."""
        lengths = torch.tensor([len(start) for _, start, _ in texts], device=self.device)
        longest = int(lengths.max())
        x = torch.stack([F.pad(start, (0, 0, 0, longest - len(start))) for _, start, _ in texts])
        places = torch.tensor([row for row, _, _ in texts], device=self.device)
        rows.hidden[places], rows.logits[places] = self.functional.prefix(x, lengths, places, rows.keys, rows.values)

    def _advance(self, session: Session, A: int, most: int = STEPS_PER_LOOK) -> None:
        """The next step of the first A rows, or the next few: at `most` so many on a CPU."""
        if self.device.type == "cpu":
            if KERNEL_ROWS[self.precision] >= A:
                self._take_steps(session, A, most)
                return
            session.draw(session.rows, A)
            if session.rows.states.shape[1] or not bool(session.rows.done[:A].all()):
                self._read(session.rows, A)
            return
        A = bucket(A, session.rows.keys.shape[1])
        if A not in session.graphs:
            session.graphs[A] = self._capture(session, A)
        for _ in range(STEPS_PER_LOOK):
            session.graphs[A].replay()

    def _take_steps(self, session: Session, A: int, most: int) -> None:
        """Up to `most` steps in the kernel, the rows shared among as many threads as PyTorch takes."""
        given = (self.kernel_weights, self.functional.arrays, self.code_array, session.draw.numbers, session.arrays)
        n = min(A, torch.get_num_threads())
        (first, last), *others = pairwise(A * i // n for i in range(n + 1))
        running = [self.threads.submit(take_steps, *given, *rows, most) for rows in others]
        take_steps(*given, first, last, most)
        for thread in running:
            thread.result()

    def _capture(self, session: Session, A: int) -> torch.cuda.CUDAGraph:
        """A step as a graph; the rows are as they were before."""
        rows = session.rows
        before = [value.clone() for value in vars(rows).values()]

        def step() -> None:
            session.draw(rows, A)
            self._read(rows, A)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        for value, old in zip(vars(rows).values(), before, strict=True):
            value.copy_(old)
        return graph

    def _read(self, rows: Rows, A: int) -> None:
        """The network reads the step that was drawn."""
        every, limit = torch.arange(A, device=self.device), rows.keys.shape[3] - 1
        codes = rows.codes[every, :, (rows.steps[:A] - 1).clamp(max=limit)]
        x = self.code_table[self.codebook, codes].sum(1)
        positions = rows.positions[:A]
        visible = limit + 1 if self.device.type == "cuda" else int(positions.max()) + 1
        rows.hidden[:A], rows.logits[:A] = self.functional.step(x, positions, rows.keys, rows.values, visible)
        if rows.states.shape[1]:
            rows.states[every, rows.steps[:A].clamp(max=rows.states.shape[1] - 1)] = rows.hidden[:A]
        positions += 1
        positions.clamp_(max=limit)

    def _frames(self, rows: Rows, row: int, count: int, reason: str | None, with_states: bool) -> Generated:
        """The first `count` frames of a row."""
        K = self.lm.n_codebooks
        codes = undelay(rows.codes[row : row + 1], count)[0].clamp(max=self.lm.codebook_size - 1)
        made = Generated(codes, reason)
        if with_states:
            made.states = rows.states[row, K : K + count].T.clone()
        return made


def _draw_seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (1,), generator=generator, device=device))


def bucket(n: int, most: int) -> int:
    """The least power of two that is no less than n, or `most` if that is less."""
    return min(1 << (n - 1).bit_length(), most)
