"""train_voice.py: the whole chain on the demo corpus, what it does not do twice, and how it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import run_script, tiny_config

import train_voice
from config import load_config
from data_utils import read_filelist
from make_demo_corpus import make_corpus
from synthesize import Synthesizer
from train_voice import Chain, Stage, final_stages, training_stages

SMALL = {
    "aligner": {"hidden_size": 8, "n_layers": 1},
    "aligned": {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "feed_forward_size": 16, "predictor_size": 8,
                "decoder": {"kind": "parallel", "hidden_size": 16, "n_layers": 1}},
    "vocoder": {"kind": "vocos", "hidden_size": 8, "intermediate_size": 16, "n_layers": 1},
}
FEW = {"batch_size": 2, "max_steps": 2, "eval_interval": 2, "save_interval": 1}


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    """Two speakers of a demo corpus as LJSpeech-like folders, their clips numbered alike."""
    monkeypatch.chdir(tmp_path)
    make_corpus(tmp_path / "corpus", 36)
    spoken = {"bruno": [], "lucia": []}
    for clip in [*read_filelist("corpus/train.txt"), *read_filelist("corpus/validation.txt")]:
        spoken.get(clip.speaker, []).append(clip)
    for speaker, clips in spoken.items():
        folder = tmp_path / "recordings" / speaker
        (folder / "wavs").mkdir(parents=True)
        for number, clip in enumerate(clips):
            clip.path.rename(folder / "wavs" / f"{number:02d}.wav")
        (folder / "metadata.csv").write_text("".join(f"{n:02d}|{clip.text}\n" for n, clip in enumerate(clips)))
    config = tiny_config(**SMALL, train__aligner=FEW, train__aligned=FEW,
                         train__vocoder=FEW | {"conditioning": "mel", "predicted_start": 1})
    Path("tiny.json").write_text(json.dumps(config))
    return tmp_path / "recordings"


@pytest.fixture
def commands(monkeypatch):
    """The scripts that are run, in this process; of the evaluation only the row that needs the least time."""
    run = []

    def run_here(command: list[str]) -> None:
        run.append(command[0].removesuffix(".py"))
        run_script(run[-1], *command[1:], *(["--rows", "synthesis"] if run[-1] == "evaluate" else []))

    monkeypatch.setattr(train_voice, "run_script", run_here)
    return run


def make_voice(recordings: Path, *arguments: str) -> None:
    run_script("train_voice", "-i", recordings, "-c", "tiny.json", "-m", "two", *arguments)


def test_from_recordings_to_a_voice_that_speaks(recordings, commands, monkeypatch, capsys):
    whole = train_voice.run_script

    def stopped(command: list[str]) -> None:
        whole([*command, "--max-steps", "1"] if command[0] == "train_aligned.py" else command)

    with monkeypatch.context() as patch:
        patch.setattr(train_voice, "run_script", stopped)
        with pytest.raises(SystemExit) as error:
            make_voice(recordings)
    assert error.value.code == 2
    assert "train_aligned.py: stopped before step 2; give the same command again" in capsys.readouterr().err
    assert commands == ["preprocess_audio", "preprocess_audio", "preprocess_ipa", "preprocess_ipa", "align",
                        "train_aligned"]

    commands.clear()
    make_voice(recordings)
    # preprocess_audio.py knows by itself what is finished
    assert commands == ["preprocess_audio", "preprocess_audio", "train_aligned", "preprocess_mels", "train_vocoder",
                        "evaluate", "export"]
    languages = {clip.speaker: clip.language for clip in read_filelist("data/two/train_ipa.txt")}
    assert languages == {"bruno": "de", "lucia": "es"}
    held_out = read_filelist("data/two/evaluation.txt")
    assert [clip.speaker for clip in held_out] == ["bruno", "lucia"]
    assert not {clip.path for clip in held_out} & {clip.path for clip in read_filelist("data/two/train.txt")}
    rows = json.loads(Path("outputs/two/evaluation/utterances.json").read_text())
    assert [row["name"] for row in rows] == ["bruno_11", "lucia_11"]  # their clips are numbered alike
    system = Synthesizer("voices/two")
    assert (system.speakers, system.languages) == (["bruno", "lucia"], ["de", "es"])
    speech = system.speak("Guten Tag.", "de", "bruno", seed=1)
    assert torch.isfinite(speech.samples).all()
    assert speech.samples.abs().max() > 0

    commands.clear()
    make_voice(recordings)
    assert commands == ["preprocess_audio", "preprocess_audio"]

    commands.clear()
    values = json.loads(Path("tiny.json").read_text())
    values["train"]["aligned"]["max_steps"] = 3
    Path("tiny.json").write_text(json.dumps(values))
    with pytest.raises(SystemExit):
        make_voice(recordings)
    assert "voices/two: is there already, of another training" in capsys.readouterr().err
    assert not commands
    Path("voices/two").rename("voices/old")
    make_voice(recordings)
    assert commands[2:] == ["train_aligned", "preprocess_mels", "evaluate", "export"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--language", "bruno=klingon"], "unknown language 'klingon'"),
    (["--language", "bruno=klingon"], "--language bruno=NAME (make voice LANGUAGE=bruno=NAME)"),
    (["--language", "anna=de"], "there is no voice anna, but bruno, lucia"),
    (["-i", "nowhere"], "nowhere: no such folder"),
    (["-c", "none.json"], "none.json: no such config file"),
])
def test_mistakes_are_told_before_anything_is_run(recordings, commands, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        make_voice(recordings, *arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not commands


def test_packages_that_evaluation_lacks_are_told_first(recordings, commands, monkeypatch, capsys):
    def lacking(name: str) -> None:
        raise ValueError(f"{name} needs jiwer: pip install -r requirements-eval.txt")

    monkeypatch.setattr(train_voice, "import_module", lacking)
    with pytest.raises(SystemExit):
        make_voice(recordings)
    assert "evaluation needs jiwer: pip install -r requirements-eval.txt" in capsys.readouterr().err
    assert not commands


@pytest.mark.parametrize(("changes", "scripts"), [
    ({"train__vocoder": {"conditioning": "mel"}}, ["align", "train_aligned", "train_vocoder"]),
    ({"data": {"alignments": "grids"}, "train__vocoder": {"conditioning": "mel", "predicted_start": 0}},
     ["align", "train_aligned", "preprocess_mels", "train_vocoder"]),
    ({}, ["train_codec", "preprocess_codes", "train_llm", "train_vocoder"]),
    ({"codec": {"kind": "encodec"}, "train__vocoder": {"conditioning": "hidden"}},
     ["preprocess_codes", "train_llm", "train_vocoder"]),
])
def test_the_config_says_what_is_trained(tmp_path, changes, scripts):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_config(**changes)))
    stages = training_stages(load_config(path), path, "m")
    assert [stage.command[0].removesuffix(".py") for stage in stages] == scripts
    trains = [stage.trains[0].name for stage in stages if stage.trains]
    assert ("aligner" in trains) == ("align" in scripts and "data" not in changes)
    evaluate, export = final_stages(stages, tmp_path, "m", tmp_path / "voice")
    assert {path.name for path in export.inputs} == set(trains) == {path.name for path in evaluate.inputs[1:]}


def test_a_stage_is_done_while_nothing_that_it_reads_changes(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny_config()))
    config = load_config(tmp_path / "config.json")
    source, product = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("a")
    stage = Stage(["script.py"], (source, tmp_path / "none"), product)

    def is_done(stage: Stage = stage, config=config) -> bool:
        return Chain(config, tmp_path / "finished.json").is_done(stage)

    assert not is_done()
    product.touch()
    assert not is_done()
    (tmp_path / "finished.json").write_text(json.dumps({"script.py": stage.fingerprint(config)}))
    assert is_done()
    more_steps = config.model_copy(update={"train": config.train.model_copy(update={"codec": None})})
    assert is_done(config=more_steps)
    assert not is_done(config=config.model_copy(update={"llm": None}))
    assert not is_done(Stage(["script.py", "-x"], stage.inputs, product))
    source.write_text("b")
    assert not is_done()


def test_scripts_that_fail_and_scripts_that_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(train_voice, "__file__", str(tmp_path / "train_voice.py"))
    (tmp_path / "fine.py").write_text("import sys; open('said', 'w').write(sys.argv[1])")
    (tmp_path / "bad.py").write_text("raise SystemExit(2)")
    monkeypatch.chdir(tmp_path)
    train_voice.run_script(["fine.py", "hello there"])
    assert Path("said").read_text() == "hello there"
    with pytest.raises(ValueError, match=r"bad\.py: ended with status 2, see above; when that is mended"):
        train_voice.run_script(["bad.py"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_script_once_and_ends_the_chain(tmp_path, number):
    (tmp_path / "slow.py").write_text("""
import pathlib, signal, time
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: got.append(number))
pathlib.Path("ready").touch()
while not got:
    time.sleep(0.01)
time.sleep(0.2)
pathlib.Path("saved").write_text(str(len(got)))
""")
    root = Path(__file__).parents[1]
    code = f"""
import sys; sys.path.insert(0, {str(root)!r})
import cli, train_voice
train_voice.__file__ = {str(tmp_path / "train_voice.py")!r}
cli.run(lambda: train_voice.run_script(["slow.py"]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"slow.py: stopped by {number.name}; give the same command again" in error
    assert (tmp_path / "saved").read_text() == "1"
