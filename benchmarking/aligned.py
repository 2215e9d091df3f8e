"""Text -> phonemes -> mel -> wave by an aligned-duration model with random weights, as `synthesize.py` does it for one
sentence."""

import itertools
import math
import statistics
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarking.machine import device, peak_memory_gb, seconds_of
from benchmarking.networks import build_aligned, build_decoder_and_vocoder
from benchmarking.synthesis import FIRST_SOUNDS, PERCENTILES, run_timed
from config import Config
from models.aligned_tts import AlignedTTS
from synthesis.aligned_system import spoken_in_chunks
from synthesis.frames_to_wave import FramesToWave, NoDecoder
from text import build_frontend

ALIGNED_PARTS = {"text": "text -> phonemes", "aligned": "phonemes -> mel", "vocoder": "mel -> wave"}
WORDS_PER_SECOND = 2.5  # English read aloud
SENTENCE = "The quick brown fox jumps over the lazy dog while five wizards are watching"


def measure_aligned_synthesis(config: Config, repeats: int, seconds: int) -> dict:
    """Seconds of each part per second of audio and how many times real time the chain is, medians of `repeats`, for
    English of about `seconds`, and how soon it is first heard, streamed and made whole; `cpu_seconds_per_audio_second`
    is what all threads together worked, which others on the machine disturb least."""
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

    to_wave = FramesToWave(NoDecoder(config.audio.n_mels), vocoder, config.audio, config.audio.frame_rate)
    audio_seconds = wave.shape[1] / config.audio.sample_rate
    per_second = {part: statistics.median(t[1:]) / audio_seconds for part, t in times.items()}
    return {
        "decoder": config.aligned.decoder.kind, "audio_seconds": audio_seconds, "text_symbols": len(symbols) - 2,
        "threads": torch.get_num_threads(), "seconds_per_audio_second": per_second,
        "cpu_seconds_per_audio_second": statistics.median(cpu_seconds[1:]) / audio_seconds,
        "times_real_time": 1 / sum(per_second.values()), "precision": "fp32",
        "first_sound": measure_first_sound(model, to_wave, symbols),
        "first_sound_whole": (per_second["aligned"] + per_second["vocoder"]) * audio_seconds,
        "peak_memory_gb": peak_memory_gb(),
    }


def measure_first_sound(model: AlignedTTS, to_wave: FramesToWave, symbols: Tensor) -> dict[str, float]:
    """Of one stream at a time: seconds from the symbols (S,) to the first samples, percentiles of FIRST_SOUNDS."""
    zero = torch.zeros(1, dtype=torch.long, device=symbols.device)

    def first_sound() -> None:
        with torch.inference_mode():
            next(spoken_in_chunks(model, model.plan([symbols], zero, zero), to_wave))

    first_sound()  # measures how far the vocoder hears
    seconds = [seconds_of(first_sound) for _ in range(FIRST_SOUNDS)]
    return {f"p{share}": float(np.percentile(seconds, share)) for share in PERCENTILES}


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
    percentiles = ", ".join(f"{figures['first_sound'][f'p{share}']:.4f} s (p{share})" for share in PERCENTILES)
    lines.append(f"{'first sound':24} {percentiles}; {figures['first_sound_whole']:.4f} s if made whole")
    return [*lines, f"{'whole chain':24} {figures['times_real_time']:8.3f} times real time, "
                    f"{figures['cpu_seconds_per_audio_second']:.4f} CPU seconds per second of audio"]
