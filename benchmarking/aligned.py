"""Text -> phonemes -> mel -> wave by an aligned-duration model with random weights, as `synthesize.py` does it for one
sentence."""

import itertools
import math
import statistics
import time
from functools import partial

import torch
from torch import Tensor, nn

from benchmarking.machine import device, peak_memory_gb
from benchmarking.networks import build_aligned, build_decoder_and_vocoder
from benchmarking.synthesis import run_timed
from config import Config
from models.aligned_tts import AlignedTTS
from text import build_frontend

ALIGNED_PARTS = {"text": "text -> phonemes", "aligned": "phonemes -> mel", "vocoder": "mel -> wave"}
WORDS_PER_SECOND = 2.5  # English read aloud
SENTENCE = "The quick brown fox jumps over the lazy dog while five wizards are watching"


def measure_aligned_synthesis(config: Config, repeats: int, seconds: int) -> dict:
    """Seconds of each part per second of audio and how many times real time the chain is, medians of `repeats`, for
    English of about `seconds`; `cpu_seconds_per_audio_second` is what all threads together worked, which others on the
    machine disturb least."""
    where = device()
    torch.manual_seed(0)
    model, (_, vocoder) = build_aligned(config).eval().to(where), build_decoder_and_vocoder(config)
    vocoder.remove_weight_norm()
    vocoder.eval().to(where)
    frontend = build_frontend(config.text.model_copy(update={"lexicon": None}))
    words = itertools.islice(itertools.cycle(SENTENCE.split()), round(seconds * WORDS_PER_SECOND))
    text = " ".join(words) + "."
    zero = torch.zeros(1, dtype=torch.long, device=where)

    def ids() -> Tensor:
        ipa = frontend.phonemize(text, "en-us")
        return torch.tensor([frontend.bos_id, *frontend.encode(ipa), frontend.eos_id], device=where)

    speak_evenly(model, seconds * config.audio.frame_rate / len(ids()))
    times: dict[str, list[float]] = {part: [] for part in ALIGNED_PARTS}
    cpu_seconds = []
    for _ in range(repeats + 1):  # the first warms up
        started = time.process_time()
        symbols = run_timed(times["text"], ids)
        spoken, = run_timed(times["aligned"], partial(model.generate, [symbols], zero, zero))
        with torch.inference_mode():
            wave = run_timed(times["vocoder"], partial(vocoder, spoken.mel[None])).wave
        cpu_seconds.append(time.process_time() - started)

    audio_seconds = wave.shape[1] / config.audio.sample_rate
    per_second = {part: statistics.median(t[1:]) / audio_seconds for part, t in times.items()}
    return {
        "decoder": config.aligned.decoder.kind, "audio_seconds": audio_seconds, "text_symbols": len(symbols) - 2,
        "threads": torch.get_num_threads(), "seconds_per_audio_second": per_second,
        "cpu_seconds_per_audio_second": statistics.median(cpu_seconds[1:]) / audio_seconds,
        "times_real_time": 1 / sum(per_second.values()), "precision": "fp32", "peak_memory_gb": peak_memory_gb(),
    }


def speak_evenly(model: AlignedTTS, frames: float) -> None:
    """Has a model without training give every symbol so many frames."""
    out = model.predictors["duration"].out
    nn.init.zeros_(out.weight)
    nn.init.constant_(out.bias, math.log1p(frames))


def aligned_lines(figures: dict) -> list[str]:
    """The figures for people to read."""
    lines = [
        f"aligned durations, {figures['decoder']} decoder: {figures['audio_seconds']:.2f} s in {figures['precision']}, "
        f"{figures['threads']} thread(s), {figures['peak_memory_gb']:.2f} GB",
    ]
    lines += [f"{ALIGNED_PARTS[part]:24} {seconds:8.4f} s per second of audio"
              for part, seconds in figures["seconds_per_audio_second"].items()]
    return [*lines, f"{'whole chain':24} {figures['times_real_time']:8.3f} times real time, "
                    f"{figures['cpu_seconds_per_audio_second']:.4f} CPU seconds per second of audio"]
