"""Pictures: mel spectrograms side by side, code usage, curves."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor

matplotlib.use("Agg")


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


def curves_figure(curves: Mapping[str, tuple[list[int], list[float]]], titles_per_row: int = 3) -> Figure:
    """One panel per name -> (steps, values); logarithmic where all values are positive."""
    rows = -(-len(curves) // titles_per_row)
    figure = Figure(figsize=(4.2 * titles_per_row, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, titles_per_row, squeeze=False).flat
    for (title, (steps, values)), axes in zip(curves.items(), panels, strict=False):
        axes.plot(steps, values, linewidth=1)
        axes.set(title=title, xlabel="step", yscale="log" if min(values) > 0 else "linear")
        axes.grid(alpha=0.3)
    for axes in panels:
        axes.axis("off")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a PNG."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
