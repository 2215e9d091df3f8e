"""What a corpus of so many hours takes: tokens, storage, CPU-hours of preprocessing, GPU-hours of the language model.

    python3 -m benchmarking.scaling -c configs/fsq_tts.json configs/ipa_tts.json --hours 100 10000 1000000

Computed, not measured: from the sizes of the networks and from rates that are options, whose defaults were measured as
docs/scaling.md says. Training is 6 FLOPs a parameter and position (arXiv 2001.08361), at a share of the GPU's peak.
"""

import argparse
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import cli
from benchmarking.networks import build_lm, codec_sizes
from benchmarking.stages import SYMBOLS_PER_SECOND
from config import Config, load_config

log = logging.getLogger(__name__)

FLAC_MB, MEL_MB, CODING, CPU_SECONDS = 85.0, 41.4, 1.16, 40.0
"""As measured in docs/scaling.md."""


@dataclass(frozen=True)
class Rates:
    """What an hour of speech costs, and what a GPU gives."""

    flac_mb: float
    """MB of clips as flac, 16 bit at 22.05 kHz."""
    mel_mb: float
    """MB of mels, 80 bands of float16 at 86 frames a second, in Parquet."""
    coding: float
    """Bytes of codes in Parquet, text and paths included, to those that the codes' entropy needs."""
    cpu_seconds: float
    """Seconds of one core that all preprocessing takes for an hour of speech."""
    tflops: float
    utilisation: float


def scale(config: Config, hours: float, epochs: float, rates: Rates) -> dict:
    """The figures of one config for one corpus (JSON values)."""
    sizes = codec_sizes(config)
    parameters = sum(p.numel() for p in build_lm(config).parameters())
    bits = sizes["frame_rate"] * sizes["n_codebooks"] * math.log2(sizes["codebook_size"])
    seconds = 3600 * hours
    positions = seconds * (sizes["frame_rate"] + SYMBOLS_PER_SECOND)
    flops = 6 * parameters * positions * epochs
    return {
        "hours": hours, "epochs": epochs, "parameters": parameters, "positions": positions,
        "codes": seconds * sizes["frame_rate"] * sizes["n_codebooks"],
        "codes_gb": seconds * bits / 8 * rates.coding / 1e9,
        "flac_gb": hours * rates.flac_mb / 1e3, "mels_gb": hours * rates.mel_mb / 1e3,
        "preprocessing_core_hours": hours * rates.cpu_seconds / 3600,
        "gpu_hours": flops / (rates.tflops * 1e12 * rates.utilisation) / 3600,
    }


def lines(name: str, rows: list[dict]) -> list[str]:
    """Rows of a Markdown table."""
    return [
        f"| `{name}`, {row['parameters'] / 1e6:.0f} M | {row['hours']:,.0f} | {row['codes']:.2g} "
        f"| {row['positions']:.2g} | {size(row['codes_gb'])} | {size(row['flac_gb'])} | {size(row['mels_gb'])} "
        f"| {row['preprocessing_core_hours']:,.0f} | {row['epochs']:g} | {row['gpu_hours']:,.3g} |"
        for row in rows
    ]


def size(gigabytes: float) -> str:
    """In the unit that is easiest to read."""
    for unit, factor in (("PB", 1e6), ("TB", 1e3), ("GB", 1)):
        if gigabytes >= factor:
            return f"{gigabytes / factor:.3g} {unit}"
    return f"{gigabytes * 1e3:.3g} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, nargs="+", type=Path, help="JSON config(s)")
    parser.add_argument("--hours", type=float, nargs="+", default=[100, 1e4, 1e6], help="of speech")
    parser.add_argument("--epochs", type=float, nargs="+", default=[20, 4, 1], help="one number for each of --hours")
    parser.add_argument("--flac-mb", type=float, default=FLAC_MB, help="MB an hour")
    parser.add_argument("--mel-mb", type=float, default=MEL_MB, help="MB an hour")
    parser.add_argument("--coding", type=float, default=CODING, help="bytes of shards to those of the codes' entropy")
    parser.add_argument("--cpu-seconds", type=float, default=CPU_SECONDS, help="of preprocessing, an hour of speech")
    parser.add_argument("--tflops", type=float, default=989, help="peak of the GPU (H100 SXM, bf16, by its data sheet)")
    parser.add_argument("--utilisation", type=float, default=0.3, help="share of the peak that training reaches")
    arguments = parser.parse_args()
    if len(arguments.hours) != len(arguments.epochs):
        raise ValueError("--epochs: give one number for each of --hours")
    rates = Rates(arguments.flac_mb, arguments.mel_mb, arguments.coding, arguments.cpu_seconds, arguments.tflops,
                  arguments.utilisation)
    table = ["| config, language model | hours | codes | positions | codes in shards | flac | mels | core-hours of "
             "preprocessing | epochs | GPU-hours (computed) |", "|---|---|---|---|---|---|---|---|---|---|"]
    for path in arguments.config:
        config = load_config(path)
        table += lines(path.stem, [scale(config, hours, epochs, rates)
                                   for hours, epochs in zip(arguments.hours, arguments.epochs, strict=True)])
    log.info("\n%s", "\n".join(table))


if __name__ == "__main__":
    cli.run(main)
