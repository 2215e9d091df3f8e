"""train_aligned.py on a tiny model, and speaking with what it trained."""

import json
import logging

import pytest
import torch
from conftest import run_script, write_config

from config import load_config
from data_utils import read_filelist
from durations_cache import durations_fingerprint, write_durations
from mel_processing import audio_seconds, frames_for
from mels_cache import load_mels
from models.aligned_tts import Prosody
from synthesis.aligned_system import AlignedSystem
from synthesis.timings import save_timings, spoken_intervals
from synthesize import Synthesizer
from text import build_frontend

DECODERS = {
    "parallel": {"kind": "parallel", "hidden_size": 16, "n_layers": 1},
    "flow": {"kind": "flow", "hidden_size": 16, "n_layers": 1, "n_steps": 2},
    "autoregressive": {"kind": "autoregressive", "hidden_size": 16, "n_layers": 1, "n_heads": 2,
                       "intermediate_size": 16},
}


def aligned_config(kind: str = "parallel", **stage: object) -> str:
    return str(write_config(
        f"{kind}.json", data={"durations": "durations"},
        aligned={"hidden_size": 16, "n_layers": 1, "n_heads": 2, "feed_forward_size": 16, "predictor_size": 8,
                 "decoder": DECODERS[kind]},
        train__aligned={"batch_size": 2, "max_steps": 4, "eval_interval": 4, "save_interval": 2, "ema_decay": 0.5,
                        **stage},
    ))


@pytest.fixture
def with_durations(own_chain):
    """The chain with every clip's frames shared out evenly."""
    config = load_config(aligned_config())
    frontend = build_frontend(config.text)
    info = {"fingerprint": durations_fingerprint(config.audio.model_dump(), frontend.state())}
    for part in ("training", "validation"):
        rows = []
        for clip in read_filelist(getattr(config.data, f"{part}_filelist")):
            seconds = audio_seconds(clip.path)
            frames, places = frames_for(round(seconds * 22050), config.audio), len(frontend.encode(clip.text)) + 2
            durations = torch.linspace(0, frames, places + 1).round().long().diff().tolist()
            rows.append({"path": str(clip.path), "speaker": clip.speaker, "language": clip.language, "ipa": clip.text,
                         "durations": durations, "frames": frames, "seconds": seconds, "score": -1.0})
        write_durations(f"durations/{part}", rows, info)
    return own_chain


@pytest.mark.parametrize("kind", DECODERS)
def test_every_decoder_trains_and_speaks(with_durations, kind, caplog):
    caplog.set_level(logging.INFO)  # for train.log
    run_script("train_aligned", "-c", aligned_config(kind), "-m", "tiny")
    log = (with_durations / "logs/tiny/aligned/train.log").read_text()
    assert "mel_l1" in log
    synthesizer = Synthesizer("tiny")
    assert isinstance(synthesizer.system, AlignedSystem)
    speech = synthesizer.speak("A man sat down. He saw a tree!", "en-us", seed=1)
    again = synthesizer.speak("A man sat down. He saw a tree!", "en-us", seed=1)
    assert torch.equal(speech.samples, again.samples)
    assert torch.isfinite(speech.samples).all()
    words = spoken_intervals(speech.parts, "words")
    assert [part.text for part in speech.parts] == ["A man sat down.", "He saw a tree!"]
    assert "".join(word.label for word in words).replace("ˈ", "").replace("ˌ", "").startswith("ɐmænsæt")
    ends = [time for word in words for time in (word.start, word.end)]
    assert ends == sorted(ends)
    assert ends[-1] <= speech.seconds + 1e-6


@pytest.mark.parametrize("kind", DECODERS)
def test_a_stream_gives_the_samples_of_the_whole_before_all_are_made(with_durations, kind):
    run_script("train_aligned", "-c", aligned_config(kind), "-m", "tiny", "--max-steps", 2)
    synthesizer, text = Synthesizer("tiny"), "A man sat down. He saw a tree, and then another one! Why?"
    torch.nn.init.constant_(synthesizer.system.model.predictors["duration"].out.bias, 2.0)
    speech = synthesizer.speak(text, seed=1, batch_size=1)
    chunks = list(synthesizer.stream(text, seed=1))
    torch.testing.assert_close(torch.cat([chunk.samples for chunk in chunks]), speech.samples, atol=1e-5, rtol=0)
    of_parts, rest = [], iter(chunks)
    for whole in speech.parts:
        of_parts.append([next(rest)])
        while not of_parts[-1][-1].parts:
            of_parts[-1].append(next(rest))
        part, = of_parts[-1][-1].parts
        assert (part.text, part.start, part.words) == (whole.text, whole.start, whole.words)
        begin = round(part.start * speech.sample_rate)
        torch.testing.assert_close(part.samples, speech.samples[begin : begin + len(part.samples)], atol=1e-5, rtol=0)
    assert all(len(of_part) > 1 for of_part in of_parts)
    assert 0.25 <= chunks[0].seconds < 0.25 + 2 * 256 / 22050
    other = synthesizer.speak(text, seed=2, batch_size=1)
    assert torch.equal(other.samples, speech.samples) == (kind != "flow")


def test_resumed_is_unbroken(with_durations):
    for model, stops in (("whole", [4]), ("broken", [2, 4])):
        for step in stops:
            run_script("train_aligned", "-c", aligned_config("flow"), "-m", model, "--max-steps", step)
    whole, broken = (torch.load(f"checkpoints/{model}/aligned/G_step4.pth", weights_only=True)
                     for model in ("whole", "broken"))
    for part in ("weights", "ema"):
        for name, value in whole[part].items():
            assert torch.equal(value, broken[part][name]), name


def test_test_mode_hears_every_speaker(with_durations, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("train_aligned.TEST_CLIPS", 1)
    run_script("train_aligned", "-c", aligned_config(max_steps=100), "-m", "tiny", "--test-mode")
    assert "finished at step 10 of 10" in caplog.text
    checkpoint = torch.load("checkpoints/tiny/aligned/G_step10.pth", weights_only=True)
    assert checkpoint["speakers"] == list(checkpoint["speaker_pitch"]) == ["bruno", "ella", "lucia"]


def test_prosody_and_times(with_durations, tmp_path):
    run_script("train_aligned", "-c", aligned_config(), "-m", "tiny")
    synthesizer = Synthesizer("tiny")
    torch.nn.init.constant_(synthesizer.system.model.predictors["duration"].out.bias, 2.0)
    usual = synthesizer.speak("He saw a tree.")
    fast = synthesizer.speak("He saw a tree.", prosody=Prosody(rate=2.0))
    assert fast.seconds == pytest.approx(usual.seconds / 2, rel=0.05)
    for name in ("a.json", "a.srt", "a.TextGrid"):
        save_timings(tmp_path / name, usual.parts, usual.seconds)
    times = json.loads((tmp_path / "a.json").read_text())
    assert len(times["words"]) == len(spoken_intervals(usual.parts, "words")) > 0
    assert "He saw a tree." in (tmp_path / "a.srt").read_text()
    assert 'name = "phones"' in (tmp_path / "a.TextGrid").read_text()
    with pytest.raises(ValueError, match=r"a\.txt: times are written as"):
        save_timings(tmp_path / "a.txt", usual.parts, usual.seconds)
    with pytest.raises(ValueError, match="rate must be"):
        Prosody(rate=0.0)
    with pytest.raises(ValueError, match="name one of"):
        synthesizer.speak("He saw a tree.", reference="voice.wav")


def test_the_vocoder_is_tuned_on_the_mels_that_the_model_makes(with_durations):
    run_script("train_aligned", "-c", aligned_config(), "-m", "tiny")
    run_script("preprocess_mels", "-c", aligned_config(), "-m", "tiny")
    clips = [clip.path for clip in read_filelist("data/train_ipa.txt")]
    audio = load_config(aligned_config()).audio
    mels = load_mels("data/mels/training", clips, audio)
    assert [len(mel) for mel in mels] == [frames_for(round(audio_seconds(path) * 22050), audio) for path in clips]
    heard = []
    for start in (None, 2):
        config = write_config("tuned.json", train__vocoder={"conditioning": "mel", "predicted_start": start})
        run_script("train_vocoder", "-c", config, "-m", f"from{start}")
        heard.append(torch.load(f"checkpoints/from{start}/vocoder/G_step4.pth", weights_only=True)["weights"])
        heard.append(torch.load(f"checkpoints/from{start}/vocoder/G_step2.pth", weights_only=True)["weights"])
    assert all(torch.equal(heard[1][name], heard[3][name]) for name in heard[1])  # until then, the recordings
    assert any(not torch.equal(heard[0][name], heard[2][name]) for name in heard[0])


def test_a_recording_that_changed_since_is_named(with_durations, capsys):
    config = aligned_config()
    clip = read_filelist("data/train_ipa.txt")[0]
    clip.path.write_bytes(read_filelist("data/train_ipa.txt")[1].path.read_bytes())
    with pytest.raises(SystemExit) as error:
        run_script("train_aligned", "-c", config, "-m", "other")
    assert error.value.code == 2
    assert "were aligned; it has changed" in capsys.readouterr().err


def test_a_codes_model_has_no_prosody_and_no_times(chain):
    synthesizer = Synthesizer("tiny")
    with pytest.raises(ValueError, match="takes no rate"):
        synthesizer.speak("He saw a tree.", prosody=Prosody(rate=2.0))
    with pytest.raises(ValueError, match=r"a\.json: it is not known when the words of 'hi' are said: this model has no "
                                         r"aligner: train one under its name \(align\.py\)"):
        save_timings(chain / "a.json", synthesizer.speak("hi", input_type="ipa", seed=1).parts, 1.0)
