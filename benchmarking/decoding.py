"""Codes from text: `transformers.generate`, TokenLM.generate and the Decoder on one network of random weights, in
turns, beside the time in which its weights can be read from memory once."""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarking.machine import COPY_BYTES, clock, device, seconds_of
from benchmarking.networks import build_lm, codec_sizes
from benchmarking.stages import SYMBOLS_PER_SECOND
from config import Config
from decoding.engine import Decoder
from decoding.weights import read_weights, weight_bytes
from models.layers.sampling import Sampling
from models.token_lm import TokenLM

BATCHES = [1, 32]
FRAMES = 4, 52  # the time of a step is what the longer speech takes longer
SECONDS_OF_TEXT = 5
GREEDY = Sampling(temperature=0)


def measure_decoding(config: Config, repeats: int) -> dict:
    """Seconds a step, medians of `repeats` rounds in each of which every way has its turn, for one text and for 32; and
    `floor_seconds`, the weights' bytes over the rate at which memory is read.

    For transformers.generate the network is a GPT2LMHeadModel of the same sizes with one head (not for the other
    backbones).
    """
    torch.manual_seed(0)
    where, sizes = device(), codec_sizes(config)
    lm = build_lm(config).eval().to(where)
    with torch.no_grad():
        lm.heads[0].weight[[0, lm.end]] = 0  # of two equal logits the first is taken: nothing ends early
    bytes_read = weight_bytes(read_weights(lm.body, [head.weight for head in lm.heads]))
    ways, memory = _ways(config, lm), torch.ones(COPY_BYTES[where.type] // 4, device=where)
    times: dict[str, list[float]] = {name: [] for name in ways}
    reads = []
    for way in ways.values():
        way(FRAMES[0])
    for _ in range(repeats):
        for name, way in ways.items():
            short, long = (seconds_of(partial(way, frames)) for frames in FRAMES)
            times[name].append((long - short) / (FRAMES[1] - FRAMES[0]))
        reads += [seconds_of(memory.sum) for _ in range(3)]
    bandwidth = memory.nbytes / min(reads)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    rows = {name: int(name.rpartition(" ")[2]) for name in ways}
    return {
        "layers": config.llm.n_layers, "hidden_size": config.llm.hidden_size, "weight_megabytes": bytes_read / 1e6,
        "threads": torch.get_num_threads(), "clock": clock(),
        "read_gb_per_second": bandwidth / 1e9, "floor_seconds": bytes_read / bandwidth, "seconds_per_step": seconds,
        "times_real_time": {name: rows[name] / (value * sizes["frame_rate"]) for name, value in seconds.items()},
    }


def decoding_lines(figures: dict) -> list[str]:
    """The figures for people to read."""
    lines = [
        f"codes of a {figures['layers']} x {figures['hidden_size']} LM, {figures['threads']} thread(s), "
        f"{figures['clock']}; floor: {figures['weight_megabytes']:.0f} MB at {figures['read_gb_per_second']:.3g} GB/s, "
        f"{figures['floor_seconds'] * 1e3:.3g} ms", f"{'':36} {'ms/step':>9} {'x floor':>8} {'x real time':>12}",
    ]
    return lines + [
        f"{name:36} {value * 1e3:9.2f} {value / figures['floor_seconds']:8.2f} {figures['times_real_time'][name]:12.1f}"
        for name, value in figures["seconds_per_step"].items()
    ]


def _ways(config: Config, lm: TokenLM) -> dict[str, Callable[[int], object]]:
    """Functions of how many frames they are to say."""
    where, ways = device(), {}
    precisions = ["fp32", "int8"] if where.type == "cpu" else ["fp32"]
    generators = {"TokenLM.generate": lm.generate} | {
        f"Decoder {precision}": Decoder(lm, rows=max(BATCHES), precision=precision).generate
        for precision in precisions
    }
    length = min(SECONDS_OF_TEXT * SYMBOLS_PER_SECOND, config.llm.max_positions - lm.positions_for(0, FRAMES[1]))
    for batch in BATCHES:
        texts = torch.randint(lm.body.config.vocab_size, (batch, length), device=where)
        zeros = torch.zeros(batch, dtype=torch.long, device=where)
        if config.llm.backbone == "gpt2":
            ways[f"transformers.generate, batch {batch}"] = _transformers(config, lm, texts)
        for name, generate in generators.items():
            ways[f"{name}, batch {batch}"] = partial(_generated, generate, texts, zeros)
    return ways


def _generated(generate: Callable, texts: Tensor, zeros: Tensor, frames: int) -> object:
    return generate(list(texts), zeros, zeros, [frames] * len(texts), GREEDY)


def _transformers(config: Config, lm: TokenLM, texts: Tensor) -> Callable[[int], object]:
    """The library's own greedy generation after a prompt (B, L), with one head of as many rows as all of ours."""
    heads = lm.n_codebooks * (lm.codebook_size + 2)
    sizes = GPT2Config(
        vocab_size=max(heads, lm.body.config.vocab_size), n_positions=config.llm.max_positions,
        n_embd=config.llm.hidden_size, n_layer=config.llm.n_layers, n_head=config.llm.n_heads,
        n_inner=config.llm.intermediate_size, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )
    model = GPT2LMHeadModel(sizes).eval().to(texts.device)
    mask = torch.ones_like(texts)
    return lambda frames: model.generate(texts, attention_mask=mask, max_new_tokens=frames, min_new_tokens=frames,
                                         do_sample=False)
