"""What evaluate.py is made of: measures of speech, one module each; the rows that are compared; the report."""

from importlib.util import find_spec

PACKAGES = ("jiwer", "librosa", "num2words", "onnxruntime", "pesq", "pocketsphinx", "pystoi", "pyworld", "speechmos")

missing = [name for name in PACKAGES if find_spec(name) is None]
if missing:
    raise ValueError(f"evaluation needs {', '.join(missing)}: pip install -r requirements-eval.txt")
