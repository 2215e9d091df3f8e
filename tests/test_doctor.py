"""Every way in which a data set or a machine can be broken is found, named and given a mend."""

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import run_script, write_config

import health.environment as environment
from data_utils import Clip, write_filelist
from health.recordings import measure, measure_all
from health.report import STATES, Check, table, worst

RATE = 22050
TEXTS = [f"həlˈoʊ {'wˈɜːld ' * (i % 4 + 1)}{'aɪ' * i}" for i in range(20)]


def spoken(seconds: float, seed: int, silence: float = 0.1, rate: int = RATE) -> np.ndarray:
    """Bursts of noise, with silence at both ends."""
    random = np.random.default_rng(seed)
    wave = 0.2 * random.standard_normal(round(seconds * rate)).clip(-3, 3)
    wave *= np.sin(np.pi * np.arange(len(wave)) / rate * 3) ** 2 + 0.1
    edge = np.zeros(round(silence * rate))
    return np.concatenate([edge, wave, edge])


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """20 clips, as long as their texts say, and then all that can be wrong."""
    folder = tmp_path_factory.mktemp("broken")
    clips = []
    for i, text in enumerate(TEXTS):
        soundfile.write(folder / f"{i:02}.wav", spoken(len(text) / 14, i), RATE)
        clips.append(Clip(folder / f"{i:02}.wav", text, "ann", "en-us"))
    good = spoken(1.5, 99)
    changed = {
        0: good * 0, 1: spoken(2, 1, silence=0.8), 2: good[: RATE // 5], 3: np.tile(good, 9),
        4: good.clip(-0.2, 0.2) * 5, 5: np.stack([good, spoken(1.5, 98)], axis=1),
    }
    for i, samples in changed.items():
        soundfile.write(clips[i].path, samples, RATE)
    soundfile.write(clips[6].path, spoken(len(TEXTS[6]) / 14, 6, rate=16000), 16000)
    clips[7].path.write_bytes(clips[7].path.read_bytes()[:3000])
    clips[8].path.write_text("no sound")
    clips[9].path.unlink()
    soundfile.write(folder / "11.flac", soundfile.read(clips[11].path)[0], RATE)
    clips[10] = Clip(folder / "11.flac", clips[11].text, "ann", "en-us")
    soundfile.write(clips[12].path, soundfile.read(clips[13].path)[0], RATE)
    clips[14] = Clip(clips[14].path, "ẞ" + clips[14].text * 9, "ann", "en-us")
    clips[15] = Clip(clips[15].path, clips[15].text, "ann", "klingon")
    clips[16] = Clip(clips[16].path, "☃", "ann", "en-us")
    for i in range(6):
        soundfile.write(folder / f"again{i}.wav", spoken(1.5, 50 + i), RATE)
        clips.append(Clip(folder / f"again{i}.wav", "ˈaɪ aɪ aɪ aɪ aɪ aɪ aɪ", "ann", "en-us"))
    write_filelist(folder / "train.txt", clips)
    with (folder / "train.txt").open("a") as file:
        file.write("00.wav|ann|en-us|aɪ\nx.wav|aɪ\n")
    soundfile.write(folder / "copy.wav", soundfile.read(clips[17].path)[0], RATE)
    soundfile.write(folder / "other.wav", spoken(2, 77), RATE)
    write_filelist(folder / "validation.txt", [
        clips[17], Clip(folder / "copy.wav", "ˈaɪ", "bob", "de"),
        Clip(folder / "other.wav", TEXTS[18], "ann", "en-us")])
    return folder


def examine(folder: Path, monkeypatch, *arguments: object) -> tuple[int, dict[str, dict]]:
    """The status, and every section's checks by their names."""
    monkeypatch.chdir(folder)
    status = 0
    try:
        run_script("doctor", *arguments, "--json", "out/doctor.json", "--jobs", 1)
    except SystemExit as ended:
        status = ended.code
    content = json.loads((folder / "out/doctor.json").read_text())
    return status, {name: {check["name"]: check for check in checks} for name, checks in content["checks"].items()}


def test_everything_that_is_broken_is_found(broken, monkeypatch, caplog):
    config = write_config(broken / "config.json", data={"training_filelist": "train.txt",
                                                        "validation_filelist": "validation.txt"})
    with caplog.at_level("INFO"):
        status, sections = examine(broken, monkeypatch, "-c", config)
    assert status == 1
    found = {name: (check["state"], sorted(place.split(":")[0] for place in check["places"]))
             for name, check in sections["train.txt"].items()}
    assert found == {
        "lines": ("error", ["line 27", "line 28"]),
        "files": ("error", ["07.wav", "08.wav", "09.wav"]),
        "symbols": ("error", ["14.wav", "16.wav"]),
        "languages": ("warning", ["klingon"]),
        "same text": ("warning", ["ann"]),
        "text for length": ("warning", ["02.wav", "03.wav", "14.wav", "16.wav"]),
        "sample rate": ("warning", ["06.wav"]),
        "channels": ("warning", ["05.wav"]),
        "clipping": ("warning", ["04.wav"]),
        "silence": ("error", ["00.wav"]),
        "silent ends": ("warning", ["01.wav"]),
        "length": ("warning", ["02.wav", "03.wav"]),
        "same audio": ("warning", ["11.wav"]),
        "two texts": ("error", ["13.wav"]),
    }
    together = {name: (check["state"], len(check["places"])) for name, check in sections["all filelists"].items()}
    assert together == {
        "speakers": ("warning", 2), "overlap of recordings": ("error", 2), "overlap of texts": ("warning", 1),
        "speakers held out": ("error", 1), "languages held out": ("error", 1),
    }
    for checks in sections.values():
        for check in checks.values():
            assert (check["state"] == "ok") == (check["mend"] == "")
            assert check["mend"] in ("", check["mend"].strip(".") + ".")
    assert "09.wav: no such file" in caplog.text
    assert "mend: Copy or export these recordings again, or take their lines out." in caplog.text
    assert "errors" in caplog.text.splitlines()[-1]


def test_a_whole_data_set_passes(broken, tmp_path, monkeypatch):
    clips = [Clip(broken / f"{i}.wav", TEXTS[i], "ann", "en-us") for i in (17, 18, 19)]
    write_filelist(tmp_path / "good.txt", clips)
    status, sections = examine(tmp_path, monkeypatch, "-i", "good.txt")
    assert status == 0
    assert [name for name, check in sections["good.txt"].items() if check["state"] != "ok"] == []
    assert sections["all filelists"]["speakers"]["places"] == ["ann: 0.2 minutes"]
    assert examine(tmp_path, monkeypatch, "-i", "good.txt", "--strict")[0] == 1


def test_text_needs_no_ipa_symbols_but_a_language(broken, tmp_path, monkeypatch):
    write_filelist(tmp_path / "text.txt", [Clip(broken / "17.wav", "Hello world", "ann", "english"),
                                           Clip(broken / "18.wav", "Hello", "ann", "de")])
    status, sections = examine(tmp_path, monkeypatch, "-i", "text.txt")
    assert status == 1
    assert sections["text.txt"]["symbols"]["found"] == "plain text; preprocess_ipa.py turns it into IPA"
    place, = sections["text.txt"]["languages"]["places"]
    assert place.startswith("english: 1 clips, unknown language 'english': did you mean")
    (tmp_path / "empty.txt").write_text("\n")
    assert examine(tmp_path, monkeypatch, "-i", "empty.txt")[1]["empty.txt"]["lines"]["found"] == "no clips"
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings/metadata.csv").write_text("17|Hello world\n18|Hello\n")
    (tmp_path / "recordings/17.wav").symlink_to(broken / "17.wav")
    checks = examine(tmp_path, monkeypatch, "-i", "recordings")[1]["recordings"]
    assert checks["files"]["places"] == ["recordings/18: no such file"]
    assert checks["languages"]["places"] == ["und: 2 clips, no language is given"]
    monkeypatch.undo()
    with pytest.raises(SystemExit) as ended:
        run_script("doctor", "-i", "nowhere.txt")
    assert ended.value.code == 2


def test_recordings_are_measured_alike_in_several_processes(broken):
    paths = sorted(broken.glob("*.wav"))
    assert len(paths) > 20
    assert list(measure_all(paths, 2)) == list(map(measure, paths))
    ends = measure(broken / "01.wav")
    assert (ends.before, ends.behind) == pytest.approx((0.8, 0.8), abs=0.06)
    assert ends.spoken == pytest.approx(2, abs=0.1)
    assert measure(broken / "11.wav").digest == measure(broken / "11.flac").digest


Usage = namedtuple("Usage", "total used free")
Memory = namedtuple("Memory", "total available")


def test_what_is_wrong_with_a_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: Usage(0, 0, 2e8))
    assert environment.check_disk(tmp_path).state == "error"
    assert environment.check_shared_memory(2).mend.startswith("Start the container with --shm-size=1g")
    assert environment.check_shared_memory(0).state == "ok"
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(8e9, 2e9))
    assert environment.check_memory().state == "warning"
    limits = tmp_path / "cgroup"
    limits.mkdir()
    for name, text in (("memory.max", "2000000000"), ("memory.current", "1500000000"), ("cpu.max", "100000 100000")):
        (limits / name).write_text(f"{text}\n")
    monkeypatch.setattr(environment, "CGROUP", limits)
    memory = environment.check_memory()
    assert (memory.state, memory.found) == ("error", "0.5 GB free of 2.0 GB")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert environment.check_cores(1).mend.startswith("Set OMP_NUM_THREADS to 1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert environment.check_cores(3).mend.startswith("Set data.workers to 1 or less")
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert environment.check_python().mend.startswith("Install Python 3.11")
    (tmp_path / "logs").write_text("a file, where a folder should be")
    refused = environment.check_folders(tmp_path)
    assert (refused.state, refused.places) == ("error", [f"{tmp_path / 'logs'}: Not a directory"])


def test_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    assert environment.check_gpu().state == "ok"
    assert environment.check_gpu(("train.llm",)).mend.startswith("Set precision of train.llm to fp32 or bf16")
    monkeypatch.setattr(environment.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert environment.check_gpu().mend.startswith("Install the CUDA build of torch")


def test_packages(tmp_path):
    (tmp_path / "requirements.txt").write_text("# torch==1\nnumpy==0.0.1\nno-such-package==1.0\n")
    checked = environment.check_packages(tmp_path / "requirements.txt")
    assert (checked.state, checked.found) == ("error", "1 of 2 missing, 1 of another version")
    assert checked.places[0] == "no-such-package: missing, 1.0 wanted"
    assert environment.check_packages(environment.ROOT / "requirements.txt").state != "error"


def test_without_any_package_it_says_what_is_missing():
    ended = subprocess.run([sys.executable, "-S", "doctor.py"], capture_output=True, text=True, cwd=environment.ROOT,
                           timeout=120)
    assert ended.returncode == 1
    assert "- torch: missing" in ended.stderr
    assert "-m pip install -r requirements.txt" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_table():
    places = [f"{i}.wav: x" for i in "abcd"]
    checks = [Check("lines", "ok", "3 clips"), Check("files", "error", "4", "Mend it.", places)]
    assert table("train.txt", checks).splitlines() == [
        "train.txt", "  ok       lines  3 clips", "  error    files  4", "                  - a.wav: x",
        "                  - b.wav: x", "                  - c.wav: x",
        "                  - ... and 1 more (--json FILE names all)", "                  mend: Mend it.",
    ]
    assert (worst(checks), worst(checks[:1]), worst([])) == ("error", "ok", STATES[0])
