"""Word times of a language model's speech, by the aligner of its folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import run_script, write_config

from mel_processing import load_audio
from synthesis.speech import Part
from synthesis.timings import spoken_intervals
from synthesize import Synthesizer

TEXT = "A man sat down. He saw a tree!"


@pytest.fixture
def with_aligner(own_chain):
    """The chain, an aligner that learned for two steps, and what it says of the recordings."""
    config = write_config("aligner.json", data={"durations": "durations"}, aligner={"hidden_size": 16, "n_layers": 1},
                          train__aligner={"max_steps": 2, "batch_size": 4, "eval_interval": 2, "save_interval": 2})
    run_script("align", "-c", config, "-m", "tiny")
    return own_chain


def test_speech_is_aligned_as_recordings_are(with_aligner):
    word_times = Synthesizer("tiny").system.word_times
    words_of = json.loads(Path("durations/training_reports/words.json").read_text())
    lines = [line.split("|") for line in Path("data/train_ipa.txt").read_text().splitlines()]
    for path, speaker, _, ipa in lines:
        samples = load_audio(Path("data") / path, 22050)
        part = word_times.timed(Part(ipa, samples, len(samples) / 22050, "stop"), speaker)
        times = [[word.label, round(word.start, 4), round(word.end, 4)] for word in part.words]
        assert times == words_of[f"data/{path}"]
        assert part.untimed == ""


def test_every_way_of_speaking_has_times(with_aligner, tmp_path):
    synthesizer = Synthesizer("tiny")
    speech = synthesizer.speak(TEXT, seed=1, retries=0)
    assert [[word.label for word in part.words] for part in speech.parts] == [
        part.ipa.rstrip(".!").split(" ") for part in speech.parts]
    for part in speech.parts:
        times = [time for word in part.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert times[-1] <= part.seconds
        assert "".join(phone.label for phone in part.phones) == "".join(word.label for word in part.words)
    streamed = [part for chunk in synthesizer.stream(TEXT, seed=1) for part in chunk.parts]
    assert [part.words for part in streamed] == [part.words for part in speech.parts]
    run_script("export", "-m", "tiny", "-o", tmp_path / "voice", "--precision", "fp32")
    shutil.rmtree("checkpoints")
    for suffix in (".json", ".srt", ".TextGrid"):
        run_script("synthesize", "-m", tmp_path / "voice", "--text", TEXT, "--seed", 1, "--retries", 0,
                   "-o", tmp_path / "a.wav", "--times", tmp_path / f"a{suffix}")
    words = json.loads((tmp_path / "a.json").read_text())["words"]
    assert [word["label"] for word in words] == [word.label for word in spoken_intervals(speech.parts, "words")]
    assert "He saw a tree!" in (tmp_path / "a.srt").read_text()
    assert 'name = "words"' in (tmp_path / "a.TextGrid").read_text()


def test_what_has_no_times_says_why(with_aligner, tmp_path, capsys):
    synthesizer = Synthesizer("tiny")
    synthesizer.system.word_times.letters -= {"æ", "t"}
    part, = synthesizer.speak("sæt", input_type="ipa", seed=1).parts
    assert (part.words, part.phones) == (None, None)
    assert part.untimed == "its aligner was trained without the sounds t æ"
    short = replace(part, ipa="saʊn", samples=torch.zeros(3 * 256), seconds=3 * 256 / 22050)
    assert synthesizer.system.word_times.timed(short, "ella").untimed == "4 phones in 3 mel frames"
    with pytest.raises(SystemExit):
        run_script("synthesize", "-m", "tiny", "--ipa", "ǃǃ", "-o", tmp_path / "a.wav", "--times", tmp_path / "a.srt")
    assert "a.srt: it is not known when the words of 'ǃǃ' are said: its aligner was trained without the sounds ǃ" in (
        capsys.readouterr().err)


def test_an_aligner_of_other_audio_is_refused(with_aligner):
    path = next(Path("checkpoints/tiny/aligner").glob("G_step2.pth"))
    data = torch.load(path, weights_only=True)
    data["config"]["audio"]["f_min"] = 50.0
    torch.save(data, path)
    with pytest.raises(ValueError, match="aligner and vocoder were trained with different audio sections"):
        Synthesizer("tiny")
