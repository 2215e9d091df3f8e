"""Several systems beside one another: token and bit rate, parameters, and what a second of audio costs."""

import math
from collections.abc import Callable

from benchmarking.aligned import measure_aligned_synthesis
from benchmarking.networks import codec_sizes, count_parameters, systems_of
from benchmarking.synthesis import measure_synthesis
from config import Config

Measure = Callable[..., dict]


def compare(
    configs: dict[str, Config], steps: int, seconds: int, measure: Measure, precision: str = "fp32"
) -> dict[str, dict]:
    """Figures of every config by its name, `<name>, aligned` being its aligned-duration system if it has one.

    `measure(name, function, *arguments)` calls the function, in a process of its own or not; `steps`, `seconds` and
    `precision` as in `measure_synthesis`.
    """
    systems = {}
    for name, config in configs.items():
        kinds, parameters = systems_of(config), measure(name, count_parameters, config)
        if "tokens" in kinds:
            sizes = codec_sizes(config)
            bits = sizes["frame_rate"] * sizes["n_codebooks"] * math.log2(sizes["codebook_size"])
            synthesis = measure(name, measure_synthesis, config, steps, seconds, precision)
            systems[name] = {
                **{key: sizes[key] for key in ("frame_rate", "n_codebooks", "codebook_size")}, "bits_per_second": bits,
                "parameters": parameters, **synthesis,
            }
        if "aligned" in kinds:
            synthesis = measure(name, measure_aligned_synthesis, config, steps, seconds)
            systems[f"{name}, aligned"] = {"parameters": parameters, **synthesis}
    return systems


def comparison_table(systems: dict[str, dict]) -> str:
    """The figures as a Markdown table; parameters are those of what speaks. An aligned-duration model has no codes: it
    stands where the language model does."""
    lines = [
        "| config | codes a second | bit/s | LM or aligned | decoder + vocoder | LM steps/s | "
        "LM or aligned, ms a second | x real time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_aligned_row(name, row) if "decoder" in row else _token_row(name, row)
                                for name, row in systems.items())])


def _token_row(name: str, row: dict) -> str:
    parameters, chain = row["parameters"], row["times_real_time"]
    waves = parameters["vocoder"] + parameters.get("decoder", 0)
    return (
        f"| `{name}` | {row['frame_rate']:.1f} x {row['n_codebooks']} of {row['codebook_size']} | "
        f"{row['bits_per_second']:.0f} | {parameters['llm'] / 1e6:.1f} M | {waves / 1e6:.1f} M | "
        f"{row['lm_steps_per_second']:.0f} | {row['seconds_per_audio_second']['lm'] * 1e3:.0f} | "
        + (f"{chain:.1f} |" if chain else "- |")
    )


def _aligned_row(name: str, row: dict) -> str:
    parameters = row["parameters"]
    return (
        f"| `{name}` ({row['decoder']}) | - | - | {parameters['aligned'] / 1e6:.1f} M | "
        f"{parameters['vocoder'] / 1e6:.1f} M | - | {row['seconds_per_audio_second']['aligned'] * 1e3:.0f} | "
        f"{row['times_real_time']:.1f} |"
    )
