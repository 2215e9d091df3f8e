"""From symbols to a wave, in the ways of `synthesis.aligned_system` and `synthesis.token_system`."""

from dataclasses import dataclass

import numpy as np

from decoding.repetition import RepetitionWatch
from onnx_runner.folder import Network
from onnx_runner.random_numbers import TorchRandom
from onnx_runner.sampling import Sampling, choose
from text.symbols import BOS_ID, EOS_ID, MARKS


@dataclass(frozen=True)
class Manner:
    """Who speaks, and how: ids, and what `onnx.json` has defaults of."""

    speaker: int
    language: int
    sampling: Sampling | None
    prosody: dict[str, float]


class Aligned:
    """An aligned-duration model and a vocoder."""

    marks = MARKS
    """Behind which long sentences are cut."""

    def __init__(self, settings: dict, networks: dict[str, Network]):
        self.settings, self.networks = settings, networks

    def fits(self, n_symbols: int) -> bool:
        """Whether a piece of so many symbols can be spoken in one go."""
        return n_symbols <= self.settings["max_symbols"]

    def speak(self, ids: list[int], manner: Manner, random: TorchRandom) -> tuple[np.ndarray, str]:
        """Ids of symbols -> samples (n,) float32 and the reason why it ended."""
        symbols, durations = self.networks["encoder"](
            text=np.array([[BOS_ID, *ids, EOS_ID]]), speaker=np.array([manner.speaker]),
            language=np.array([manner.language]),
            **{name: np.array(value, np.float32) for name, value in manner.prosody.items()},
        )
        n_frames, together = int(durations.sum()), self.settings["frames_per_position"]
        shape = -(-n_frames // together), together * self.settings["n_mels"]
        noise = np.zeros(shape, np.float32)
        if manner.sampling is not None:  # a flow's
            noise = np.float32(manner.sampling.temperature) * random.normal(*shape)
        mel, = self.networks["decoder"](symbols=symbols, durations=durations, noise=noise[None])
        return self.networks["vocoder"](mel=mel[:, :, :n_frames])[0][0], "stop"


class Token:
    """A language model over codes, a decoder of its codes or states, and a vocoder."""

    marks = ".,;:!?"

    def __init__(self, settings: dict, networks: dict[str, Network]):
        self.settings, self.networks = settings, networks
        self.n_codebooks, size = settings["n_codebooks"], settings["codebook_size"]
        self.begin, self.end, self.pad = size, size + 1, size + 2
        self.late = max(1, self.n_codebooks - 1)  # steps from the last frame's first code to the end
        self.offsets = settings["offsets"]
        self.code_offsets = np.array([self.offsets[f"codes_{k}"] for k in range(self.n_codebooks)])
        self.cache = np.zeros((settings["max_positions"], *settings["cache_shape"]), np.float32)

    def fits(self, n_symbols: int) -> bool:
        """Whether the model's positions have room for so many symbols and the longest reading of them."""
        extra = self.n_codebooks if self.settings["hidden"] else self.late
        return 2 + n_symbols + self._bound(n_symbols) + extra <= self.settings["max_positions"]

    def speak(self, ids: list[int], manner: Manner, random: TorchRandom) -> tuple[np.ndarray, str]:
        """Ids of symbols -> samples (n,) float32 and the reason why it ended."""
        frames, reason = self._say(ids, manner, TorchRandom(random.seed()))
        n_mel_frames = max(2, round(frames.shape[1] * self.settings["mel_frames_per_code"]))
        name = self.settings["speakers"][manner.speaker]
        mel, = self.networks["decoder"](
            frames=frames[None], speaker=np.array([self.settings["decoder_speakers"].index(name)]),
            places=np.arange(n_mel_frames),
        )
        return self.networks["vocoder"](mel=mel)[0][0], reason

    def _bound(self, n_symbols: int) -> int:
        s = self.settings
        return int(n_symbols * s["frames_per_symbol"] * s["bound_margin"] + s["bound_seconds"] * s["code_frame_rate"])

    def _say(self, ids: list[int], manner: Manner, random: TorchRandom) -> tuple[np.ndarray, str]:
        """Codes (K, frames), or the states (D, frames) that have heard them, and why they end there."""
        K, sampling, watch = self.n_codebooks, manner.sampling, RepetitionWatch(self.settings["code_frame_rate"])
        given = np.full((3 + len(ids), K), self.offsets["nothing"])
        given[:-1, 0] = [self.offsets["languages"] + manner.language, self.offsets["speakers"] + manner.speaker, *ids]
        given[-1] = self.begin + self.code_offsets
        extra = K if self.settings["hidden"] else self.late
        bound = min(self._bound(len(ids)), self.settings["max_positions"] - 2 - len(ids) - extra)
        time = -np.arange(K)  # of each codebook, which begins later than the one before
        recent = np.full((K, sampling.repetition_window), -1)
        every, heard = np.arange(K), np.zeros((K, K + bound + self.late), np.int64)  # codes behind K places for none
        step, states, n_read, n_frames, reason = 0, [], 0, None, None
        while reason is None:
            logits, state, added = self.networks["lm"](ids=given, past=self.cache[:n_read])
            self.cache[n_read : n_read + len(added)] = added
            n_read += len(added)
            states.append(state)
            logits[:, self.begin] = logits[1:, self.end] = -np.inf
            if step == 0:
                logits[0, self.end] = -np.inf
            drawn = choose(logits, sampling, recent, random.uniform(K, 2) if sampling.temperature else None)
            if n_frames is None and (drawn[0] == self.end or step == bound):
                n_frames = step
            drawn = np.where(time < 0, self.begin, drawn)
            if n_frames is not None:
                drawn = np.where(time >= n_frames, self.pad, drawn)
                drawn[0] = self.end if step == n_frames else self.pad
            heard[every, K + time] = drawn
            given = (drawn + self.code_offsets)[None]
            recent = np.concatenate([recent, drawn[:, None]], axis=1)[:, 1:]
            step, time = step + 1, time + 1
            complete = max(0, step - K + 1 if n_frames is None else min(step - K + 1, n_frames))
            if (stuck := watch.stuck_at(heard[:, K : K + complete])) is not None:
                complete, reason = stuck, "stuck"
            elif n_frames is not None and step == n_frames + self.late:
                reason = "length" if n_frames == bound else "stop"
        codes = np.minimum(heard[:, K : K + complete], self.begin - 1)
        if not self.settings["hidden"]:
            return codes, reason
        if len(states) < K + complete:  # the last codes are read, too
            states.append(self.networks["lm"](ids=given, past=self.cache[:n_read])[1])
        return np.stack(states[K : K + complete], axis=1), reason
