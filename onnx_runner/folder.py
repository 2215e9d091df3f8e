"""The ONNX files of an exported voice, and `onnx.json`, which says how to speak with them and binds them together."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

ONNX_FILE = "onnx.json"
FORMAT, VERSION = "llm-istft-vits onnx", 1


class Network:
    """One ONNX file, on the CPU."""

    def __init__(self, path: Path, sha256: str, threads: int):
        """`threads`: 0 leaves it to ONNX Runtime. ValueError if the file is missing, damaged, or another voice's."""
        if not path.is_file():
            raise ValueError(f"{path}: missing; export the voice again with --onnx")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"{path}: damaged, or of another voice than {ONNX_FILE} beside it; export the voice again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def __call__(self, **given: np.ndarray) -> list[np.ndarray]:
        """All its outputs, in their order."""
        return self.session.run(None, given)


def read_settings(folder: Path) -> dict[str, Any]:
    """The content of `onnx.json`; ValueError if it is missing, damaged, or of another format."""
    path = folder / ONNX_FILE
    if not path.is_file():
        raise ValueError(f"{folder}: has no {ONNX_FILE}; make one with: python3 export.py -m MODEL -o {folder} --onnx")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); export the voice again") from error
    found = (settings.get("format"), settings.get("version")) if isinstance(settings, dict) else None
    if found != (FORMAT, VERSION):
        raise ValueError(f"{path}: not of this version's format, {FORMAT!r} {VERSION}; export the voice again")
    if not isinstance(settings.get("files"), dict):
        raise ValueError(f"{path}: names no files; export the voice again")
    return settings


def read_networks(folder: Path, settings: dict[str, Any], threads: int) -> dict[str, Network]:
    """The networks that `onnx.json` names; ValueError for a name that leads out of the folder."""
    if strange := [name for name in settings["files"] if Path(name).name != name]:
        raise ValueError(f"{folder / ONNX_FILE}: {strange[0]!r} is no name of a file; export the voice again")
    return {name: Network(folder / f"{name}.onnx", sha256, threads) for name, sha256 in settings["files"].items()}
