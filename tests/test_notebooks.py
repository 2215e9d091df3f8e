"""The notebooks: every cell runs, says what it is for, and what is stored is small."""

from pathlib import Path

import nbformat
import pytest

from checkpoints import saved_steps
from run_notebooks import execute, set_parameters, without_sounds
from synthesize import Synthesizer

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def shown(notebook, kind: str) -> list:
    """What the cells display of a kind, e.g. image/png."""
    return [output.data[kind] for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
            if output.output_type != "stream" and kind in output.data]


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["synthesize", "train_your_voice"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_is_explained_shown_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        assert cell.cell_type == "markdown" or before.cell_type == "markdown", f"not explained:\n{cell.source}"
    assert len(shown(notebook, "image/png")) >= 3, "python3 run_notebooks.py stores what it shows"
    assert "audio" not in "".join(shown(notebook, "text/plain")).lower()
    assert not shown(notebook, "text/html")
    assert path.stat().st_size < 500_000


def test_the_tour_of_the_voice():
    notebook = execute(FOLDER / "synthesize.ipynb")
    assert len(shown(notebook, "image/png")) == 3
    sounds = shown(notebook, "text/html")
    assert len(sounds) == 1 + 4 + 1 + 5 + 1
    assert all("data:audio/wav;base64" in sound and len(sound) > 10_000 for sound in sounds)
    assert not shown(without_sounds(notebook), "text/html")


def test_a_voice_from_nothing(tmp_path, monkeypatch):
    notebook = execute(FOLDER / "train_your_voice.ipynb", STEPS=6, SENTENCES=18, FOLDER=str(tmp_path))
    for stage in ("aligner", "aligned", "vocoder", "codec", "llm"):
        assert saved_steps(tmp_path / "checkpoints" / "first" / stage)[0] == 6
    assert len(shown(notebook, "image/png")) == 6
    voice = Synthesizer(str(tmp_path / "my_voice"))
    assert voice.languages == ["de", "en-us", "es"]


def test_a_parameter_that_is_not_there_and_a_cell_that_fails(tmp_path):
    cells = [nbformat.v4.new_code_cell("N = 1", metadata={"tags": ["parameters"]}),
             nbformat.v4.new_code_cell("raise ValueError(f'no {N}')")]
    notebook, path = nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb"
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match=r"a\.ipynb: has no parameter M"):
        set_parameters(notebook, {"M": 2}, path)
    with pytest.raises(ValueError, match=r"(?s)a\.ipynb: .*no 2"):
        execute(path, N=2)
