"""What align.py writes for people and other tools: TextGrids, the times of the words, and how well each text fits."""

import csv
import json
import logging
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from alignments.textgrids import save_textgrid, word_and_phone_intervals
from config import AudioConfig

log = logging.getLogger(__name__)

WORST = 10


def write_reports(folder: Path, rows: Sequence[dict], audio: AudioConfig) -> None:
    """Puts into `folder`, in place of what was there, for rows as of `durations_cache`:

    `TextGrid/<speaker>/<name>.TextGrid`; `words.json`, {path: [[word in IPA, start, end in seconds], ...]}; and
    `scores.csv`, worst fit first, where there are scores. The worst are named in the log. ValueError if two recordings
    of a speaker have one name.
    """
    names = Counter((row["speaker"], Path(row["path"]).stem) for row in rows)
    (speaker, name), count = names.most_common(1)[0]
    if count > 1:
        raise ValueError(f"{count} recordings of {speaker} are called {name}: rename them, or their "
                         "TextGrids would be one")
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    words_of = {}
    for row in tqdm(rows, unit="TextGrid", desc=folder.name):
        words, phones = word_and_phone_intervals(row["ipa"], row["durations"], row["seconds"], audio)
        path = temporary / "TextGrid" / row["speaker"] / f"{Path(row['path']).stem}.TextGrid"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_textgrid(path, words, phones, row["seconds"])
        words_of[row["path"]] = [[word.label, round(word.start, 4), round(word.end, 4)] for word in words]
    (temporary / "words.json").write_text(json.dumps(words_of, ensure_ascii=False, indent=0), encoding="utf-8")
    ranked = sorted((row for row in rows if not math.isnan(row["score"])), key=lambda row: row["score"])
    if ranked:
        _write_scores(temporary / "scores.csv", ranked)
        log.info("%s: text and recording fit least in\n  %s", folder / "scores.csv",
                 "\n  ".join(f"{row['score']:.2f} {row['path']}" for row in ranked[:WORST]))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _write_scores(path: Path, ranked: Sequence[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["score", "path", "speaker", "language", "ipa"])
        writer.writerows([f"{r['score']:.3f}", r["path"], r["speaker"], r["language"], r["ipa"]] for r in ranked)
