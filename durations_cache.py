"""Durations of a filelist's symbols: an Arrow dataset beside `durations.json`, which says what it was made of.

A row's `durations` are len(symbols) + 2 whole numbers of mel frames, `symbols` being `frontend.encode(ipa)`: the
silence before the first symbol, every symbol, the silence behind the last; their sum is `frames`, the number of mel
frames of the recording (`mel_processing.frames_for`). A phone's frames are all at its letter: stress, length and tone
marks, modifier letters and diacritics have 0. A pause between words is at the first symbol of its run of punctuation
and spaces; a run that is spoken without a pause has 0. Punctuation at the ends of the text has 0: that silence is in
the first and the last number. `text.phonemes.phoneme_groups` gives the groups.

`score` is higher the better the text fits the recording (NaN for imported alignments).
"""

import hashlib
import json
import shutil
from pathlib import Path

from datasets import Dataset, Features, List, Value

from arrow_files import read_rows
from text_files import read_json

INFO_FILE = "durations.json"
COMMAND = "python3 align.py -c CONFIG -m MODEL"
FEATURES = Features({
    "path": Value("string"), "speaker": Value("string"), "language": Value("string"), "ipa": Value("string"),
    "durations": List(Value("int32")), "frames": Value("int32"), "seconds": Value("float32"), "score": Value("float32"),
})


def durations_fingerprint(audio: dict, text: dict) -> str:
    """Short hash of what durations depend on: `config.audio.model_dump()` and the symbols of `frontend.state()`."""
    decisive = {"audio": audio, "symbols": text["symbols"], "table": text.get("table")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def load_durations(folder: str | Path, fingerprint: str) -> Dataset:
    """The durations in `folder`: rows of FEATURES, whose `durations` are lists of int.

    ValueError if there are none, or if they are of other mel frames or symbols than `durations_fingerprint` gave.
    """
    folder = Path(folder)
    info_file = folder / INFO_FILE
    if not info_file.is_file():
        raise ValueError(f"{folder}: no durations; make them with: {COMMAND}")
    try:
        info = read_json(info_file, keys=["fingerprint"])
        if info["fingerprint"] != fingerprint:
            raise ValueError(f"the audio section or the symbol table has changed since: {info['fingerprint']} there, "
                             f"{fingerprint} here")
        return read_rows(folder, FEATURES)
    except ValueError as error:
        raise ValueError(f"{folder}: cannot be used ({error}); delete it, then: {COMMAND}") from error


def write_durations(folder: str | Path, rows: list[dict], info: dict) -> None:
    """Puts `rows` as in FEATURES in place of `folder`, whole or not at all.

    `info` (JSON values, among them `fingerprint`) is kept beside them. ValueError if there are no rows, or if `folder`
    holds anything else.
    """
    folder = Path(folder)
    if not rows:
        raise ValueError(f"{folder}: no clip could be aligned")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INFO_FILE).is_file():
        raise ValueError(f"{folder}: exists and holds no durations; move it, or set data.durations to another folder")
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=FEATURES).save_to_disk(str(temporary))
    text = json.dumps({**info, "clips": len(rows)}, ensure_ascii=False, indent=1)
    (temporary / INFO_FILE).write_text(text, encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
