"""Coverage-guided fuzzing of what reads files byte by byte: filelists, configs, lexicons, TextGrids, metadata.csv.

    python3 tests/fuzz/atheris_parsers.py -max_total_time=60

The options are libFuzzer's. It ends at the first input that is neither read nor refused by a sentence of ours, and
writes it to crash-<hash>; that file as an argument runs it again.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

with atheris.instrument_imports(include=["alignments", "config", "data_utils", "preprocessing", "text", "text_files"]):
    from fuzzing import tried

    from alignments.textgrids import read_textgrid
    from config import load_config
    from data_utils import read_filelist
    from preprocessing.recordings import find_recordings
    from text.lexicon import Lexicon

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
READERS = {
    "list.txt": read_filelist, "config.json": load_config, "lexicon.txt": Lexicon, "a.TextGrid": read_textgrid,
    "metadata.csv": lambda path: find_recordings(path.parent, path.parent / "clips", None, None),
}


def read_with_each(content: bytes) -> None:
    for name, read in READERS.items():
        path = FOLDER / name
        path.write_bytes(content)
        tried(read, path, names=path)


if __name__ == "__main__":
    atheris.Setup([*sys.argv], read_with_each)
    atheris.Fuzz()
