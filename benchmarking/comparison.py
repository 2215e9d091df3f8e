"""Several systems beside one another: token and bit rate, parameters, and what a second of audio costs."""

import math
from collections.abc import Callable

from benchmarking.networks import codec_sizes, count_parameters
from benchmarking.synthesis import measure_synthesis
from config import Config

Measure = Callable[..., dict]


def compare(configs: dict[str, Config], steps: int, seconds: int, measure: Measure) -> dict[str, dict]:
    """Figures of every config by its name. `measure(name, function, *arguments)` calls the function, in a process of
    its own or not; `steps` and `seconds` as in `measure_synthesis`."""
    systems = {}
    for name, config in configs.items():
        sizes = codec_sizes(config)
        bits = sizes["frame_rate"] * sizes["n_codebooks"] * math.log2(sizes["codebook_size"])
        synthesis = measure(name, measure_synthesis, config, steps, seconds)
        systems[name] = {
            **{key: sizes[key] for key in ("frame_rate", "n_codebooks", "codebook_size")}, "bits_per_second": bits,
            "parameters": measure(name, count_parameters, config), **synthesis,
        }
    return systems


def comparison_table(systems: dict[str, dict]) -> str:
    """The figures as a Markdown table; parameters are those of what speaks."""
    lines = [
        "| config | codes a second | bit/s | LM | decoder + vocoder | LM steps/s | LM, ms a second | x real time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in systems.items():
        parameters, chain = row["parameters"], row["times_real_time"]
        waves = parameters["vocoder"] + parameters.get("decoder", 0)
        lines.append(
            f"| `{name}` | {row['frame_rate']:.1f} x {row['n_codebooks']} of {row['codebook_size']} | "
            f"{row['bits_per_second']:.0f} | {parameters['llm'] / 1e6:.1f} M | {waves / 1e6:.1f} M | "
            f"{row['lm_steps_per_second']:.0f} | {row['seconds_per_audio_second']['lm'] * 1e3:.0f} | "
            + (f"{chain:.1f} |" if chain else "- |")
        )
    return "\n".join(lines)
