"""The report of preprocess_audio.py: report.json for programs, report.md to read."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np


def write_report(out: Path, recordings: list, outcomes: list, options: dict) -> dict:
    """Sums up the outcome of every recording (in the same order), writes both files into `out`, returns the sums."""
    clips = [clip for outcome in outcomes for clip in outcome.clips]
    rejected = defaultdict(list)
    for recording, outcome in zip(recordings, outcomes, strict=True):
        for reason, detail in outcome.rejected:
            rejected[reason].append({"recording": str(recording.path or recording.name), "detail": detail})
    report = {
        "recordings": len(recordings),
        "recorded_hours": round(sum(outcome.seconds for outcome in outcomes) / 3600, 4),
        "clips": len(clips),
        "hours": round(sum(clip["seconds"] for clip in clips) / 3600, 4),
        "seconds": _summary([clip["seconds"] for clip in clips]),
        "loudness_before": _summary([clip["loudness_before"] for clip in clips]),
        "loudness_after": _summary([clip["loudness_after"] for clip in clips]),
        "sample_rates": dict(Counter(str(o.sample_rate) for o in outcomes if o.sample_rate)),
        "channels": dict(Counter(str(o.channels) for o in outcomes if o.channels)),
        "speakers": dict(Counter(r.speaker for r, o in zip(recordings, outcomes, strict=True) for _ in o.clips)),
        "clipped": [clip["name"] for clip in clips if clip["clipped"]],
        "peak_limited": [clip["name"] for clip in clips if clip["peak_limited"]],
        "rejections": sum(map(len, rejected.values())),
        "rejected": dict(sorted(rejected.items())),
        "options": options,
    }
    for name, text in [("report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n"),
                       ("report.md", _markdown(report))]:
        temporary = out / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out / name)
    return report


def _summary(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {"min": min(values), "mean": round(float(np.mean(values)), 2), "max": max(values)}


def _markdown(report: dict) -> str:
    def row(title: str, key: str, unit: str) -> str:
        s = report[key]
        return f"| {title} | {s['min']:.2f} | {s['mean']:.2f} | {s['max']:.2f} {unit} |" if s else ""

    def counts(key: str, unit: str) -> str:
        return ", ".join(f"{count} x {value}{unit}" for value, count in report[key].items()) or "none"

    lines = [
        "# Preprocessed recordings",
        "",
        f"- {report['recordings']} recordings, {report['recorded_hours']:.2f} hours: "
        f"{counts('sample_rates', ' Hz')}; {counts('channels', ' channel(s)')}",
        f"- {report['clips']} clips, {report['hours']:.2f} hours, at {report['options']['sample_rate']} Hz; speakers: "
        f"{counts('speakers', '')}",
        f"- {len(report['clipped'])} clipped but kept; {len(report['peak_limited'])} quieter than "
        f"{report['options']['loudness']:g} LUFS because of their peaks",
        f"- {report['rejections']} rejected",
        "",
        "| | min | mean | max |",
        "|---|---|---|---|",
        *filter(None, [row("length", "seconds", "s"), row("loudness before", "loudness_before", "LUFS"),
                       row("loudness after", "loudness_after", "LUFS")]),
    ]
    for reason, entries in report["rejected"].items():
        lines += ["", f"## Rejected: {reason} ({len(entries)})", "",
                  *(f"- `{entry['recording']}`: {entry['detail']}" for entry in entries)]
    if report["clipped"]:
        lines += ["", "## Clipped but kept", "", *(f"- `{name}`" for name in report["clipped"])]
    return "\n".join(lines) + "\n"
