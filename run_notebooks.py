"""Executes notebooks and stores them with what they show: text and pictures, not sounds, which would be large.

    python3 run_notebooks.py notebooks/synthesize.ipynb notebooks/train_your_voice.ipynb

Every cell is run in order by a kernel of this Python, in the notebook's folder. Needs requirements-notebooks.txt.
"""

import argparse
import base64
import io
import logging
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

import cli

log = logging.getLogger(__name__)

CELL_SECONDS = 3600
KEPT = ("text/plain", "text/markdown", "image/png")
COLOURS = 48


def execute(path: Path, **parameters: object) -> NotebookNode:
    """A notebook with the outputs of all of its cells; `parameters` replace those of the cell with the tag
    `parameters`. ValueError with the cell's error if one fails, or if there is no such parameter."""
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        set_parameters(notebook, parameters, path)
    client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3",
                            resources={"metadata": {"path": str(path.parent)}})
    try:
        client.execute(env=os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"})
    except CellExecutionError as error:
        raise ValueError(f"{path}: {error}") from error
    return notebook


def set_parameters(notebook: NotebookNode, parameters: dict[str, object], path: Path) -> None:
    """Gives the names that the cell with the tag `parameters` sets other values."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    lines = cells[0].source.splitlines() if cells else []
    for name, value in parameters.items():
        places = [i for i, line in enumerate(lines) if line.startswith(f"{name} = ")]
        if not places:
            raise ValueError(f"{path}: has no parameter {name}")
        lines[places[0]] = f"{name} = {value!r}"
    cells[0].source = "\n".join(lines)


def without_sounds(notebook: NotebookNode) -> NotebookNode:
    """The notebook as it is stored: of its outputs what it printed and its pictures, in few colours, but no sounds."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        outputs = []
        for output in cell.outputs:
            if output.output_type == "stream":
                if output.name == "stdout":
                    outputs.append(output)
            elif "text/html" not in output.data:  # a sound is HTML, with the whole of it inside
                output.data = {kind: value for kind, value in output.data.items() if kind in KEPT}
                if "image/png" in output.data:
                    output.data["image/png"] = in_few_colours(output.data["image/png"])
                outputs.append(output)
        cell.outputs = outputs
    return notebook


def in_few_colours(png: str) -> str:
    """A PNG in base64, a third of its size."""
    file = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(COLOURS).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", type=Path, nargs="+", metavar="NOTEBOOK")
    options = parser.parse_args()
    for path in options.notebooks:
        notebook = without_sounds(execute(path))
        nbformat.write(notebook, path)
        log.info("%s: %d cells, %.0f kB", path, len(notebook.cells), path.stat().st_size / 1e3)


if __name__ == "__main__":
    cli.run(main)
