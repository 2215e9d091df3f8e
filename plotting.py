"""Pictures: mel spectrograms side by side, code usage, curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

matplotlib.use("Agg")

SMOOTHED_FROM = 20  # values; of fewer every one is worth seeing
LOG_SPAN = 5  # times the least value: a linear axis shows less well what is so wide apart
READABLE_WORDS, WORDS_PER_SECOND = 24, 6


def mel_figure(mels: Mapping[str, Tensor]) -> Figure:
    """One row per entry: title -> log-mel (n_mels, frames), all on one colour scale and one time axis."""
    figure = Figure(figsize=(10, 2.4 * len(mels)), layout="constrained")
    mels = {title: mel.detach().float().cpu() for title, mel in mels.items()}
    top = max(float(mel.max()) for mel in mels.values())
    bottom = min(float(mel.min()) for mel in mels.values())
    longest = max(mel.shape[1] for mel in mels.values())
    for axes, (title, mel) in zip(figure.subplots(len(mels), 1, squeeze=False)[:, 0], mels.items(), strict=True):
        axes.imshow(mel, origin="lower", aspect="auto", interpolation="none", vmin=bottom, vmax=top)
        axes.set(title=title, ylabel="mel band", xlim=(0, longest))
    axes.set_xlabel("frame")
    return figure


def usage_figure(counts: Mapping[str, Tensor]) -> Figure:
    """How often each code occurs, title of a codebook -> counts (codebook_size,), most frequent first, both axes
    logarithmic; a level line would be even use."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for title, values in counts.items():
        used = values[values > 0].sort(descending=True).values.cpu()
        axes.plot(range(1, len(used) + 1), used, label=f"{title}: {len(used)} of {len(values)} used")
    axes.set(xlabel="code, by frequency", ylabel="count", xscale="log", yscale="log")
    axes.legend()
    return figure


def curves_figure(
    panels: Mapping[str, Mapping[str, tuple[list[int], list[float]]]], titles_per_row: int = 3, smoothing: float = 0.0
) -> Figure:
    """One panel per title, in it a curve per label -> (steps, values); logarithmic where positive and far apart.

    `smoothing`, under 1: as of `smoothed`, of curves of over SMOOTHED_FROM values, whose own are then drawn pale.
    """
    rows = -(-len(panels) // titles_per_row)
    figure = Figure(figsize=(4.2 * titles_per_row, 2.8 * rows), layout="constrained")
    all_axes = figure.subplots(rows, titles_per_row, squeeze=False).flat
    for (title, curves), axes in zip(panels.items(), all_axes, strict=False):  # in this order: zip takes one too many
        for label, (steps, values) in curves.items():
            smooth = smoothing > 0 and len(values) > SMOOTHED_FROM
            drawn = smoothed(values, smoothing) if smooth else values
            line, = axes.plot(steps, drawn, label=label, linewidth=1.2, marker="." if len(values) == 1 else None)
            if smooth:
                axes.plot(steps, values, linewidth=0.6, alpha=0.3, color=line.get_color())
        values = [value for _, values in curves.values() for value in values]
        logarithmic = 0 < LOG_SPAN * min(values) < max(values)
        axes.set(title=title, xlabel="step", yscale="log" if logarithmic else "linear")
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize="small")
    for axes in all_axes:
        axes.axis("off")
    return figure


def smoothed(values: Sequence[float], weight: float) -> list[float]:
    """The moving average that TensorBoard draws: `weight` of what was before, without its bias towards zero."""
    average, smooth = 0.0, []
    for count, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        smooth.append(average / (1 - weight**count))
    return smooth


def speech_figure(
    samples: Tensor, sample_rate: int, mel: Tensor, words: Sequence[tuple[float, float, str]] = ()
) -> Figure:
    """The wave (samples,) over its log-mel (n_mels, frames), on one axis of seconds; `words` (start, end, label) are
    written between the two, as far as they are few enough to be read."""
    seconds = len(samples) / sample_rate
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    wave, spectrum = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.6])
    step = max(1, len(samples) // 8000)  # more points than pixels only take time
    wave.plot(torch.arange(0, len(samples), step) / sample_rate, samples[::step], linewidth=0.5)
    wave.set(ylabel="wave", xlim=(0, seconds))
    spectrum.imshow(mel.float().cpu(), origin="lower", aspect="auto", interpolation="none",
                    extent=(0, seconds, 0, len(mel)))
    spectrum.set(ylabel="mel band", xlabel="seconds")
    if len(words) <= seconds * WORDS_PER_SECOND and len(words) <= READABLE_WORDS:
        for i, (start, end, label) in enumerate(words):
            for axes in (wave, spectrum):
                axes.axvline(start, color="grey", linewidth=0.5, alpha=0.6)
            height = 1.04 + 0.12 * (i % 2)  # short words have long names
            wave.text((start + end) / 2, height, label, transform=wave.get_xaxis_transform(), ha="center", fontsize=9)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a PNG."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
