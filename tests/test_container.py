"""Dockerfile and compose.yaml name what is there: files, scripts, options, folders."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")


def check_command(command: list[str], monkeypatch, capsys) -> None:
    """The script is there and has the options."""
    if command[0] == "-m":
        assert importlib.util.find_spec(command[1])
        return
    monkeypatch.setattr(sys, "argv", [command[0], "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(command[0].removesuffix(".py")).main()
    assert end.value.code == 0
    options = {part for part in command[1:] if re.fullmatch(r"--?[a-z][a-z-]*", part)}
    assert options <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", capsys.readouterr().out))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_starts_a_script_with_options_that_it_has(name, monkeypatch, capsys):
    check_command(SERVICES[name]["command"], monkeypatch, capsys)


def test_the_image_starts_the_server(monkeypatch, capsys):
    check_command(re.findall(r'"([^"]*)"', re.search(r"^CMD (.*)$", DOCKERFILE, re.M)[1]), monkeypatch, capsys)
    assert 'ENTRYPOINT ["python3"]' in DOCKERFILE


def test_what_is_copied_is_there_and_not_ignored():
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", DOCKERFILE, re.M)
    assert copied == ["requirements*.txt", "/opt/venv", "."]
    removed = re.search(r"rm (requirements.*) \\", DOCKERFILE)[1].split()
    assert removed == ["requirements-dev.txt", "requirements-misaki.txt", "requirements-notebooks.txt"]
    assert all((ROOT / name).is_file() for name in removed)
    assert re.search(r"^torch==\S+$", (ROOT / "requirements.txt").read_text(), re.M)
    for needed in ("voices", "configs", "text", "models", "synthesis"):
        assert (ROOT / needed).is_dir()
        assert needed not in IGNORED


def test_folders_that_are_made_by_scripts_are_volumes_and_not_in_the_image():
    kept = {"recordings", "data", "checkpoints", "logs", "outputs", "pretrained_llm", "encodec_pretrained"}
    made = re.search(r"^RUN mkdir -p (.*)$", DOCKERFILE, re.M)[1].split()
    for service in SERVICES.values():
        mounted = dict(volume.split(":")[:2] for volume in service["volumes"])
        assert mounted == {f"./{name}": f"/app/{name}" for name in kept | {"voices"}}
    assert set(made) == kept
    assert all(name in IGNORED or f"{name}/*" in IGNORED for name in kept)


def test_nothing_is_open_to_other_machines_and_nobody_is_root():
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert ("healthcheck" in service) == ("ports" in service)
        assert ("gpu" in service.get("profiles", [])) == name.endswith("-gpu") == ("deploy" in service)
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", final, re.M) == ["speaker"]
