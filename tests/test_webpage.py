"""What stands behind the page, without a browser."""

import io
import json
import threading
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch
from fastapi import FastAPI
from starlette.testclient import TestClient

import webpage.clips
import webpage.models
from checkpoints import read_checkpoint, write_checkpoint
from models.aligned_tts import Prosody
from models.layers.sampling import Sampling
from synthesis.speech import Part
from synthesis.synthesizer import Synthesizer
from synthesize import DEFAULT_VOICE, load_synthesizer
from text.espeak import languages
from webpage.asked import BEST, Request, Snapshot
from webpage.backend import mistakes_told
from webpage.clips import Clips, LiveWav, player
from webpage.examples import LANGUAGES, example, language_label
from webpage.models import Models, link_snapshot
from webpage.speak_tab import SLIDERS
from webpage.speaking import MAX_CHARACTERS, complaints, files, options, speak, summary, untimed, word_rows


@pytest.fixture(scope="module")
def models():
    return Models([DEFAULT_VOICE], Path("checkpoints"))


def spoken_by(models, text, language="en-us", clips=None, **changes):
    request = Request(Snapshot(models.names()[0]), text, language, **changes)
    *_, spoken = speak(models, clips or Clips(), request)
    return spoken


# --- clips ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    app = FastAPI()
    app.state.clips = Clips()
    app.include_router(app.state.clips.router())
    return TestClient(app)


def test_a_wav_is_heard_while_it_grows():
    wav, blocks = LiveWav("a.wav", 16000), []
    reader = threading.Thread(target=lambda: blocks.extend(wav.more()))
    reader.start()
    for value in (0.5, -2.0):
        wav.add(np.full(1000, value))
    wav.end()
    reader.join(30)
    assert not reader.is_alive()
    streamed, rate = soundfile.read(io.BytesIO(b"".join(blocks)))
    whole, _ = soundfile.read(io.BytesIO(wav.content))
    assert rate == 16000
    np.testing.assert_array_equal(streamed, whole)
    np.testing.assert_allclose(whole, np.repeat([0.5, -1.0], 1000), atol=1e-4)
    assert list(wav.more(44)) == [bytes(wav.content[44:])]


def test_a_whole_clip_is_given_in_parts(server):
    clip = server.app.state.clips.file("a b.txt", "text/plain", b"0123456789")
    whole = server.get(clip.url)
    assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, b"0123456789", "bytes")
    for wanted, content, where in [("bytes=2-4", b"234", "2-4"), ("bytes=7-", b"789", "7-9"), ("bytes=-1", b"9", "9-9"),
                                   ("bytes=8-99", b"89", "8-9")]:
        part = server.get(clip.url, headers={"Range": wanted})
        assert (part.status_code, part.content, part.headers["content-range"]) == (206, content, f"bytes {where}/10")
    assert server.get(clip.url, headers={"Range": "bytes=10-"}).status_code == 416
    assert server.get(clip.url, headers={"Range": "lines=1-2"}).content == b"0123456789"
    assert server.get("clips/guessed/a.txt").status_code == 404


def test_a_growing_clip_is_streamed(server):
    wav = server.app.state.clips.add(LiveWav("a.wav", 8000))
    threading.Timer(0.2, lambda: (wav.add(np.zeros(10)), wav.end())).start()
    assert len(server.get(wav.url).content) == 44 + 20


def test_the_oldest_clips_are_forgotten(server, monkeypatch):
    monkeypatch.setattr(webpage.clips, "MAX_BYTES", 25)
    made = [server.app.state.clips.file(f"{i}.txt", "text/plain", b"x" * 10) for i in range(3)]
    assert [server.get(clip.url).status_code for clip in made] == [404, 200, 200]


def test_names_are_text_in_html():
    clip = Clips().file('"><script>', "audio/wav", b"")
    assert "<script>" not in player(clip, "<b>")
    assert "&lt;b&gt;" in player(clip, "<b>")


# --- models -----------------------------------------------------------------------------------------------------


def test_what_the_voice_that_comes_along_follows(models):
    abilities = models.abilities(DEFAULT_VOICE)
    assert abilities.controls.keys() == {"rate", "pitch", "energy"}
    assert not abilities.reference
    assert not abilities.seed
    assert abilities.speakers_of("nl")[:2] == ["flemishguy", "nathalie"]
    assert set(abilities.speakers_of("nl")) == set(abilities.speakers)


def test_models_and_their_earlier_checkpoints_are_found(own_chain):
    folder = own_chain / "checkpoints" / "tiny"
    models = Models([], own_chain / "checkpoints")
    assert models.names() == [DEFAULT_VOICE, "tiny"]
    labels = list(models.snapshots())
    assert {"tiny", "tiny: llm 2", "tiny: vocoder 2"} <= set(labels)
    assert not any("codec" in label or label.endswith(" 4") for label in labels)
    assert models.abilities("tiny").controls.keys() == {"temperature", "top_k", "top_p", "retries"}
    assert models.abilities("tiny").reference
    assert models.abilities("tiny").seed

    def weights(loaded: Synthesizer):
        return loaded.system.lm.state_dict()

    earlier, now = models.load(Snapshot("tiny", "llm", "2")), models.load(Snapshot("tiny"))
    stored = {step: read_checkpoint(folder / "llm" / f"G_step{step}.pth")["ema"] for step in (2, 4)}
    for loaded, step in ((earlier, 2), (now, 4)):
        assert all(torch.equal(value, stored[step][name]) for name, value in weights(loaded).items())
    assert models.load(Snapshot("tiny")) is now
    # trained on: the files are others
    write_checkpoint(read_checkpoint(folder / "llm" / "G_step4.pth") | {"step": 6}, folder / "llm" / "G_step6.pth")
    assert models.load(Snapshot("tiny")) is not now
    with pytest.raises(ValueError, match="elsewhere: no such model here"):
        models.load(Snapshot("elsewhere"))


def test_the_best_checkpoint_speaks_without_its_discriminators(own_chain, tmp_path):
    folder = own_chain / "checkpoints" / "tiny"
    best = read_checkpoint(folder / "vocoder" / "G_step2.pth")
    write_checkpoint(best, folder / "vocoder" / "G_best.pth")
    link_snapshot(Snapshot("tiny", "vocoder", BEST), folder, tmp_path / "tiny")
    assert [path.name for path in (tmp_path / "tiny" / "vocoder").iterdir()] == ["G_step2.pth"]
    assert len(Synthesizer("tiny", tmp_path).speak("a").samples) > 0


def test_no_model_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(webpage.models, "VOICES", tmp_path)
    with pytest.raises(ValueError, match="no trained model there, nor a voice"):
        Models([], tmp_path)


# --- speaking ---------------------------------------------------------------------------------------------------


def test_what_is_spoken_is_what_the_synthesizer_says(models):
    clips = Clips()
    spoken = spoken_by(models, " Hello world. How are you? ", clips=clips, controls={"rate": 1.5, "temperature": 9.0})
    expected = load_synthesizer().speak("Hello world. How are you?", prosody=Prosody(rate=1.5))
    torch.testing.assert_close(spoken.samples, expected.samples, atol=1e-5, rtol=0)
    assert spoken.wav.ended
    assert len(spoken.wav.content) == 44 + 2 * len(expected.samples)
    assert f"{expected.seconds:.2f} s" in summary(spoken)
    assert complaints(spoken.parts) == []
    assert len(word_rows(spoken.parts)) == 5
    assert word_rows(spoken.parts) == sorted(word_rows(spoken.parts), key=lambda row: row[1])
    made = {clip.name: bytes(clip.content) for clip in files(spoken, clips)}
    assert json.loads(made["default.json"])["seconds"] == pytest.approx(spoken.seconds)
    assert b"How are you?" in made["default.srt"]
    assert made["default.TextGrid"].startswith(b"File type")


@pytest.mark.parametrize(("changes", "message"), [
    ({"text": "  "}, "write a text"), ({"text": "a" * (MAX_CHARACTERS + 1)}, "3001 characters is too long"),
    ({"text": "..."}, "nothing to speak"), ({"language": "fr-fr"}, "language 'fr-fr' is not among those"),
    ({"speaker": "nobody"}, "speaker 'nobody' is not among those"),
])
def test_what_cannot_be_spoken(models, changes, message):
    with pytest.raises(ValueError, match=message):
        spoken_by(models, **{"text": "Hello."} | changes)


def test_a_stopped_speech_ends(models):
    clips = Clips()
    speaking = speak(models, clips, Request(Snapshot(DEFAULT_VOICE), "One. Two. Three.", "en-us"))
    spoken = next(speaking)
    assert not spoken.wav.ended
    next(speaking)
    speaking.close()
    assert spoken.wav.ended


def test_only_what_a_system_follows_is_asked_for(chain, tmp_path):
    tiny = Synthesizer("tiny")
    request = Request(Snapshot("tiny"), "", "en-us", controls=dict.fromkeys(SLIDERS, 1.0), seed=3)
    asked = options(tiny, request)
    assert asked == {"sampling": Sampling(1.0, 1.0, 1.0), "seed": 3}
    assert options(load_synthesizer(), request).keys() == {"sampling", "prosody"}
    request = Request(Snapshot("tiny"), "", "en-us", controls={"retries": 4}, live=False)
    assert options(tiny, request)["retries"] == 4
    (tmp_path / "broken.wav").write_text("no audio")
    request = Request(Snapshot("tiny"), "", "en-us", reference=str(tmp_path / "broken.wav"))
    with pytest.raises(ValueError, match=r"broken\.wav: not readable as audio"):
        options(tiny, request)
    assert "reference" not in options(load_synthesizer(), request)


def test_parts_that_went_wrong_are_told():
    def part(**changes) -> Part:
        return Part(**{"ipa": "a", "samples": torch.zeros(1), "seconds": 1.0, "finish_reason": "stop"} | changes)

    parts = [part(words=[]), part(finish_reason="stuck", retries=2, text="He said."), part(retries=1, untimed="why")]
    assert complaints(parts) == ["repeats itself, and was cut off (stuck, retries 2): He said.",
                                 "spoken 2 times until it ended well: a"]
    assert untimed(parts[2:]) == "why"
    assert untimed(parts[:1]) == ""


def test_a_mistake_is_a_message_that_hides_where_the_file_lies():
    with pytest.raises(gr.Error, match=r"^'voice\.wav: &lt;too&gt; long'$"), mistakes_told("/tmp/x/voice.wav"):
        raise ValueError("/tmp/x/voice.wav: <too> long")


def test_there_are_examples_in_languages_that_espeak_knows():
    known = {language.split("-")[0] for language in languages()}
    assert set(LANGUAGES) <= known
    assert example("en-gb") == example("en-us") == LANGUAGES["en"][1]
    assert language_label("de") == "German (de)"
    assert (language_label("xx-yy"), example("xx-yy")) == ("xx-yy", None)
