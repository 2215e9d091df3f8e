"""Text -> codes -> mel -> wave with random weights, as `synthesize.py` does it for one sentence."""

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarking.machine import clock, device, now, peak_memory_gb, seconds_of
from benchmarking.networks import build_decoder_and_vocoder, build_lm, codec_sizes
from benchmarking.stages import SYMBOLS_PER_SECOND
from config import Config
from decoding.engine import Decoder
from models.layers.delay import steps_for
from models.layers.sampling import Sampling
from synthesis.frames_to_wave import FramesToWave, WaveStream

STREAMS = (1, 4, 16)
FIRST_SOUNDS = 20
PERCENTILES = (50, 90, 99)
PARTS = {"lm": "text -> codes", "decoder": "codes -> mel", "vocoder": "mel -> wave"}


def measure_synthesis(config: Config, repeats: int, seconds: int, precision: str = "fp32") -> dict:
    """LM steps a second, seconds of each part per second of audio, and how many times real time the chain is, medians
    of `repeats`; and how soon it is first heard. Without a mel decoder in the config, there is no chain (None).

    `precision`: of the language model's matrices, "fp32" or, on a CPU, "int8". ValueError for int8 elsewhere, and if a
    sentence of `seconds` is longer than the language model's positions.
    """
    codec, where = codec_sizes(config), device()
    torch.manual_seed(0)
    lm = build_lm(config).eval().to(where)
    decoder, vocoder = build_decoder_and_vocoder(config)
    vocoder.remove_weight_norm()
    vocoder.eval().to(where)
    if decoder is not None:
        decoder.eval().to(where)
    L, T = seconds * SYMBOLS_PER_SECOND, round(seconds * codec["frame_rate"])
    hidden = config.train.vocoder.conditioning == "hidden"
    positions = (lm.state_positions_for if hidden else lm.positions_for)(L, T)
    if positions > config.llm.max_positions:
        raise ValueError(f"--seconds {seconds}: takes {positions} positions, llm.max_positions is "
                         f"{config.llm.max_positions}; take fewer seconds")
    with torch.no_grad():
        lm.heads[0].weight[lm.end] = 0  # a logit in the middle of all others is not among the top k: nothing ends early
    fast_lm = Decoder(lm, precision=precision)
    text = torch.randint(lm.body.config.vocab_size, (L,), device=where)
    zero = torch.zeros(1, dtype=torch.long, device=where)

    times: dict[str, list[float]] = {part: [] for part in PARTS}
    for frames in [max(2, T // 8), *[T] * repeats]:  # the first warms up
        generate = partial(fast_lm.generate, [text], zero, zero, [frames], Sampling(), with_states=hidden)
        generated, = run_timed(times["lm"], generate)
        codes, features = generated.codes, generated.states if hidden else generated.codes
        n_frames = max(2, int(codes.shape[1] / codec["frame_rate"] * config.audio.frame_rate))
        with torch.inference_mode():
            mel = torch.randn(1, config.audio.n_mels, n_frames, device=where)
            if decoder is not None:
                given = features[None], zero + codes.shape[1], zero, zero.float(), n_frames
                mel = run_timed(times["decoder"], partial(decoder, *given))
            wave = run_timed(times["vocoder"], partial(vocoder, mel)).wave

    lm_steps = steps_for(codes.shape[1], codec["n_codebooks"])
    audio_seconds = wave.shape[1] / config.audio.sample_rate
    per_second = {part: statistics.median(t[1:]) / audio_seconds for part, t in times.items() if t}
    return {
        "audio_seconds": audio_seconds, "text_symbols": L, "lm_steps": lm_steps,
        "lm_steps_per_second": lm_steps / audio_seconds / per_second["lm"],
        "seconds_per_audio_second": per_second,
        "times_real_time": 1 / sum(per_second.values()) if decoder is not None else None,
        "first_sound": None if decoder is None else measure_first_sound(
            fast_lm, FramesToWave(decoder, vocoder, config.audio, codec["frame_rate"]), text, T, hidden),
        "precision": precision, "clock": clock(), "peak_memory_gb": peak_memory_gb(),
    }


def measure_first_sound(
    fast_lm: Decoder, to_wave: FramesToWave, text: Tensor, max_frames: int, hidden: bool
) -> dict[str, dict | int]:
    """Seconds from the symbols `text` (L,) to the first samples of so many `streams` that begin at once and are read in
    turns, percentiles of at least FIRST_SOUNDS; and how many code frames these samples wait for."""
    zero, frames = torch.zeros(1, dtype=torch.long, device=text.device), 0

    def until_heard() -> Iterator[None]:
        nonlocal frames
        waves = WaveStream(to_wave, 0)
        for generated in fast_lm.stream(text, zero, zero, max_frames, Sampling(), with_states=hidden):
            frames = generated.codes.shape[1]
            if len(waves.more(generated.states if hidden else generated.codes, generated.finish_reason is not None)):
                return
            yield

    def first_sounds(n: int) -> list[float]:
        seconds, streams, started = [], [until_heard() for _ in range(n)], now()
        while streams:
            for stream in list(streams):
                try:
                    next(stream)
                except StopIteration:
                    seconds.append(now() - started)
                    streams.remove(stream)
        return seconds

    first_sounds(1)  # measures how far the networks hear
    measured = {}
    for n in STREAMS:
        seconds = [value for _ in range(-(-FIRST_SOUNDS // n)) for value in first_sounds(n)]
        measured[str(n)] = {f"p{share}": float(np.percentile(seconds, share)) for share in PERCENTILES}
    return {"streams": measured, "frames": frames}


def synthesis_lines(figures: dict) -> list[str]:
    """The figures for people to read."""
    lines = [
        f"synthesis of {figures['audio_seconds']:.2f} s in {figures['precision']}, {figures['clock']}: "
        f"{figures['lm_steps_per_second']:.1f} LM steps a second, {figures['peak_memory_gb']:.2f} GB",
    ]
    lines += [f"{PARTS[part]:24} {seconds:8.4f} s per second of audio"
              for part, seconds in figures["seconds_per_audio_second"].items()]
    if first := figures["first_sound"]:
        for n, seconds in first["streams"].items():
            percentiles = ", ".join(f"{seconds[f'p{share}']:.4f} s (p{share})" for share in PERCENTILES)
            lines.append(f"{f'first sound, {n} stream(s)':24} {percentiles}, after {first['frames']} code frames each")
    chain = figures["times_real_time"]
    return [*lines, f"{'whole chain':24} {chain:8.3f} times real time" if chain else
            "no chain: the vocoder is trained on mel, and the codec has no mel decoder"]


def run_timed(times: list[float], function: Callable[[], object]) -> object:
    """The function's value; its seconds are appended to `times`."""
    values = []
    times.append(seconds_of(lambda: values.append(function())))
    return values[0]
