"""Who imports whom, and what may not be written, from the syntax trees."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARIES = {
    # what each may import of ours; a name stands for the module or package and all in it
    "cli": set(), "plotting": set(), "checkpoints": {"stage_content"}, "stage_content": {"config"},
    "arrow_files": set(), "code_shards": set(),
    "codes_cache": {"arrow_files", "code_shards", "text_files"}, "config": {"config", "text_files"},
    "fine_tuning": set(),
    "names": set(), "mel_processing": {"config"}, "voice_folder": {"checkpoints", "decoding.weights", "stage_content"},
    "run_logs": set(), "step_memory": set(), "guards": {"config"}, "batch_parts": set(),
    "run_state": {"config", "checkpoints", "fine_tuning", "guards", "optimization", "random_state", "voice_folder"},
    "run_steps": {"batch_parts", "guards", "random_state", "run_state", "step_clock", "step_memory"},
    "training": {"batch_parts", "config", "optimization", "random_state", "run_logs", "run_state", "run_steps",
                 "step_clock", "step_memory"},
    "vocoder_step": {"config", "losses", "mel_processing", "models", "training"},
    "optimization": {"config"}, "random_state": set(), "step_clock": set(), "losses": {"mel_processing"},
    "data_utils": {"text", "text_files", "mel_processing", "config"}, "lm_data": {"data_utils"},
    "shard_stream": {"code_shards", "data_utils", "lm_data"},
    "lm_corpora": {"code_shards", "codes_cache", "config", "data_utils", "lm_data", "shard_stream", "text"},
    "voice_prompts": {"mel_processing"},
    "prosody": {"config", "mel_processing"}, "aligned_data": {"data_utils", "mel_processing", "prosody"},
    "text": {"text", "config", "text_files"}, "text_files": set(),
    "models": {"models", "config", "checkpoints", "voice_folder"},
    "preprocessing": {"preprocessing", "config", "mel_processing", "data_utils", "text_files"},
    "durations_cache": {"arrow_files", "text_files"}, "mels_cache": {"config", "text_files"},
    "alignments": {"alignments", "config", "mel_processing", "data_utils", "text"},
    "evaluation": {"evaluation", "config", "checkpoints", "data_utils", "losses", "mel_processing", "models",
                   "plotting", "preprocessing", "prosody", "voice_folder"},
    "decoding": {"decoding", "models"},
    "health": {"health", "data_utils", "mel_processing", "preprocessing", "text"},
    "synthesis": {"synthesis", "decoding", "alignments", "config", "checkpoints", "mel_processing", "models", "names",
                  "preprocessing.speech", "text", "voice_folder", "voice_prompts"},
    "onnx_export": {"onnx_export", "decoding", "models", "onnx_runner.folder", "synthesis", "voice_folder"},
    "training_logs": set(),
    "webpage": {"webpage", "checkpoints", "mel_processing", "models.aligned_tts", "models.layers.sampling", "plotting",
                "synthesis", "training_logs", "voice_folder"},
    "onnx_runner": {"onnx_runner", "config", "decoding.repetition", "names", "text"},
}
NETWORK_PARTS = {"models.layers", "config", "mel_processing"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).glob("*.py"))


MODULES = sources(".", "config", "models", "models/layers", "text", "preprocessing", "synthesis", "alignments",
                  "evaluation", "decoding", "onnx_export", "onnx_runner", "health", "webpage")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Full names of our own modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    ours = {module_name(module) for module in MODULES} | {"models.layers"}
    return {name for name in names if name in ours}


def may(imported: str, allowed: set[str]) -> bool:
    return any(imported == name or imported.startswith(f"{name}.") for name in allowed)


def is_script(path: Path) -> bool:
    return path.parent == ROOT and 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def test_every_library_has_rules():
    assert set(LIBRARIES) <= {module_name(path) for path in MODULES}
    libraries = {module_name(path) for path in sources(".") if not is_script(path)}
    assert libraries == set(LIBRARIES) - {
        "config", "text", "models", "preprocessing", "synthesis", "alignments", "evaluation", "decoding", "onnx_export",
        "onnx_runner", "health", "webpage",
    }


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_who_imports_whom(path):
    name, package = module_name(path), module_name(path).split(".")[0]
    if is_script(path):
        scripts = {module_name(other) for other in sources(".") if is_script(other)}
        scripts.discard("synthesize")  # also what Python programs import
        assert not imports(path) & scripts, "scripts import libraries, never scripts"
        return
    allowed = LIBRARIES[package]
    if name.startswith("models.layers"):
        allowed = {"models.layers"}
    elif name.startswith("models."):
        allowed = NETWORK_PARTS
    wrong = sorted(imported for imported in imports(path) - {name, package} if not may(imported, allowed))
    assert not wrong, f"{name} must not import {wrong}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_what_is_never_written(path):
    for node in ast.walk(tree(path)):
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert function != "print", f"{where}: print"
            assert options.get("weights_only") != "False", f"{where}: would run code from a file"
            assert options.get("trust_remote_code") != "True", f"{where}: would run code from a repository"
            assert function != "torch.load" or options.get("weights_only") == "True", f"{where}: say weights_only=True"
            if function.endswith("load_state_dict"):
                assert options.get("strict") != "False", f"{where}: strict=False"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{where}: bare except"
        assert not isinstance(node, ast.Global), f"{where}: a module's global"


@pytest.mark.parametrize("path", [path for path in sources(".") if is_script(path)], ids=module_name)
def test_every_script_ends_in_one_way_and_says_how_it_is_called(path):
    last = tree(path).body[-1]
    assert ast.unparse(last) == "if __name__ == '__main__':\n    cli.run(main)"
    assert f"python3 {path.name}" in (ast.get_docstring(tree(path)) or "")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(tree(path)), "no docstring"
