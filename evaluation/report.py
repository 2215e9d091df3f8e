"""The figures of all utterances -> report.json, report.md, report.png, utterances.json, utterances.csv."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from matplotlib.figure import Figure

from evaluation.bootstrap import CONFIDENCE, Estimate
from evaluation.metrics import GROUPS, METRICS, Metric
from evaluation.quality import Figures, summarise
from plotting import save_figure

TOTAL = "all"
MEASURES = ("jiwer", "pesq", "pocketsphinx", "pystoi", "pyworld-prebuilt", "speechmos")
WORST = 10

Summary = Mapping[str, Mapping[str, Mapping[str, Estimate]]]
"""row -> speaker, or `TOTAL` -> metric -> mean"""


def summarise_rows(utterances: Sequence[Figures]) -> Summary:
    """The means of every row, of each speaker and of all; `utterances` have `row` and `speaker` beside the metrics."""
    summary = {}
    for row in dict.fromkeys(figures["row"] for figures in utterances):
        mine = [figures for figures in utterances if figures["row"] == row]
        speakers = sorted({figures["speaker"] for figures in mine})
        summary[row] = {speaker: summarise([f for f in mine if f["speaker"] == speaker]) for speaker in speakers}
        summary[row][TOTAL] = summarise(mine)
    return summary


def write_report(folder: Path, settings: dict, utterances: Sequence[Figures]) -> Summary:
    """Writes every file of the report; `settings`: what was measured, and how."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = summarise_rows(utterances)
    settings = settings | {"confidence": CONFIDENCE, "versions": {name: version(name) for name in MEASURES}}
    values = {row: {speaker: {name: asdict(estimate) for name, estimate in means.items()}
                    for speaker, means in speakers.items()} for row, speakers in summary.items()}
    _write_json(folder / "report.json", {"settings": settings, "rows": values})
    _write_json(folder / "utterances.json", list(utterances))
    columns = list(dict.fromkeys(name for figures in utterances for name in figures))
    with (folder / "utterances.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(utterances)
    (folder / "report.md").write_text(markdown(settings, summary, utterances), encoding="utf-8")
    save_figure(summary_figure(summary), folder / "report.png")
    return summary


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def markdown(settings: dict, summary: Summary, utterances: Sequence[Figures]) -> str:
    """The report for people: a table of each group of metrics, then the utterances that were understood worst."""
    lines = ["# Evaluation", ""]
    lines += [f"- {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items()]
    lines += ["", f"Means over utterances, in brackets their {CONFIDENCE:.0%} intervals (bootstrap)."]
    unheard = sorted({f["language"] for f in utterances if f.get("cer") is None})
    if unheard:
        lines.append(f"No error rates for {', '.join(unheard)}: {settings['recognizer']} does not know the language.")
    for title, metrics in GROUPS.items():
        lines += _table(title, metrics, summary)
    last = list(summary)[-1]
    worst = sorted((f for f in utterances if f["row"] == last and f.get("cer")), key=lambda f: -f["cer"])[:WORST]
    if worst:
        lines += ["", f"## Understood worst: {last}", "", "| utterance | CER | said | heard |", "|---|---|---|---|"]
        lines += [f"| {f['name']} | {f['cer']:.2f} | {f['said']} | {f['heard']} |" for f in worst]
    return "\n".join(lines) + "\n"


def _table(title: str, metrics: Mapping[str, Metric], summary: Summary) -> list[str]:
    present = [name for name in metrics
               if any(name in means for speakers in summary.values() for means in speakers.values())]
    if not present:
        return []
    lines = ["", f"## {title}", "", "| speaker | row | n | " + " | ".join(_heading(METRICS[n]) for n in present) + " |",
             "|---" * (3 + len(present)) + "|"]
    for speaker in dict.fromkeys(speaker for speakers in summary.values() for speaker in speakers):
        for row, speakers in summary.items():
            means = speakers.get(speaker, {})
            if any(name in means for name in present):
                n = max(means[name].n for name in present if name in means)
                cells = [_cell(means.get(name), METRICS[name].digits) for name in present]
                lines.append(f"| {speaker} | {row} | {n} | " + " | ".join(cells) + " |")
    return lines


def _heading(metric: Metric) -> str:
    return metric.title + {"lower": " ↓", "higher": " ↑", "": ""}[metric.better]


def _cell(value: Estimate | None, digits: int) -> str:
    if value is None:
        return ""
    if value.low is None:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def summary_figure(summary: Summary, panels_per_row: int = 4) -> Figure:
    """A panel for each metric: the mean of every row with its interval, speakers side by side."""
    names = [name for name in METRICS if any(name in means for row in summary.values() for means in row.values())]
    speakers = list(dict.fromkeys(speaker for row in summary.values() for speaker in row))
    n_rows = -(-len(names) // panels_per_row)
    figure = Figure(figsize=(3.8 * panels_per_row, 2.9 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, panels_per_row, squeeze=False).flat
    for axes, name in zip(panels, names, strict=False):
        for index, speaker in enumerate(speakers):
            points = [(i, row[speaker][name]) for i, row in enumerate(summary.values()) if name in row.get(speaker, {})]
            if not points:
                continue
            shift = (index - (len(speakers) - 1) / 2) * 0.6 / len(speakers)
            means = [e.mean for _, e in points]
            errors = [[0 if e.low is None else max(0.0, e.mean - e.low) for _, e in points],
                      [0 if e.high is None else max(0.0, e.high - e.mean) for _, e in points]]
            axes.errorbar([i + shift for i, _ in points], means, errors, fmt="o", markersize=3, capsize=2,
                          color="black" if speaker == TOTAL else f"C{index}", label=speaker)
        axes.set(title=_heading(METRICS[name]), xticks=range(len(summary)), xlim=(-0.5, len(summary) - 0.5))
        axes.set_xticklabels(summary, rotation=20, ha="right", fontsize=8)
        axes.grid(axis="y", alpha=0.3)
    for axes in panels:
        axes.axis("off")
    handles = {label: handle for axes in figure.axes for handle, label in
               zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure
