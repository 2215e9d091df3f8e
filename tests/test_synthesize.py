"""Synthesis on the tiny chain: what it says is noise, how it says it is exact."""

import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import run_script, write_config

import synthesize
from checkpoints import read_checkpoint, saved_steps, write_checkpoint
from mel_processing import load_audio
from models.layers.sampling import Sampling
from names import speaker_for
from synthesis.speech import Utterance
from synthesize import Synthesizer, load_synthesizer, loaded, synthesize_text
from text import split_sentences
from text.pieces import NO_MARK_PAUSE, SENTENCE_PAUSE

TEXT = "The quick brown fox jumps."


@pytest.fixture(autouse=True)
def _forget_models():
    loaded.cache_clear()


def refused(capsys, *arguments: object) -> str:
    """The error of a command line that must end with status 2."""
    with pytest.raises(SystemExit) as stop:
        run_script("synthesize", *arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error.removeprefix("error: ")


def test_text_is_spoken_and_drawn(chain, tmp_path, caplog):
    caplog.set_level("INFO")
    run_script("synthesize", "-m", "tiny", "--text", TEXT, "--seed", 1, "-o", tmp_path / "a.wav",
               "--mel", tmp_path / "new/a.png")
    info = soundfile.info(tmp_path / "a.wav")
    assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
    assert 0.1 < info.duration < 10
    assert (tmp_path / "new/a.png").read_bytes().startswith(b"\x89PNG")
    assert f"a.wav: {info.duration:.2f} s of audio in" in caplog.text
    assert "1 part(s)" in caplog.text


def test_a_seed_gives_the_same_speech(chain, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_script("synthesize", "-m", "tiny", "--text", TEXT, "-o", tmp_path / f"{name}.wav", "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.wav").read_bytes() for name in "abc")
    assert a == b != c


def test_ipa_is_spoken_as_the_text_it_came_from(chain, tmp_path):
    ipa = load_synthesizer("tiny").frontend.phonemize(TEXT, "en-us")
    options = {"model": "tiny", "seed": 3}
    samples, rate = synthesize.synthesize(ipa, **options)
    expected, _ = synthesize_text(TEXT, output_path=tmp_path / "a.flac", **options)
    assert rate == 22050
    assert torch.equal(samples, expected)
    scaled = expected / max(1, expected.abs().max())
    torch.testing.assert_close(load_audio(tmp_path / "a.flac", rate), scaled, atol=1e-4, rtol=0)
    run_script("synthesize", "-m", "tiny", "--ipa", ipa, "-o", tmp_path / "b.flac", "--seed", 3)
    assert torch.equal(load_audio(tmp_path / "b.flac", rate), load_audio(tmp_path / "a.flac", rate))


def test_a_filelist_is_spoken_line_by_line(chain, tmp_path):
    lines = "one.wav|ella|en-us|Hello there.\ntwo.wav|bruno|de|Guten Tag.\n"
    (tmp_path / "lines.txt").write_text(lines)
    run_script("synthesize", "-m", "tiny", "-i", tmp_path / "lines.txt", "-o", tmp_path / "out", "--temperature", 0)
    greedy = {"model": "tiny", "sampling": Sampling(temperature=0)}
    for line in lines.splitlines():
        name, speaker, language, text = line.replace(".wav", "").split("|")
        expected, rate = synthesize_text(text, language, speaker, output_path=tmp_path / "alone.wav", **greedy)
        assert torch.equal(load_audio(tmp_path / f"out/{name}.wav", rate), load_audio(tmp_path / "alone.wav", rate))
    (tmp_path / "ipa.txt").write_text("three.wav|həlˈoʊ\n")
    run_script("synthesize", "-m", "tiny", "-i", tmp_path / "ipa.txt", "--input-type", "ipa", "-s", "ella",
               "-o", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.wav", "three.wav", "two.wav"]


def test_long_text_is_split_until_it_fits_the_positions(chain):
    synthesizer = load_synthesizer("tiny")
    system = synthesizer.system
    system.frames_per_symbol = 4.0
    text = " ".join(["never ending"] * 60) + ". " + TEXT
    speech = synthesizer.speak(text, seed=0)
    assert len(speech.parts) > 3
    words = " ".join(part.ipa for part in speech.parts).split()
    sentences = split_sentences(text, "en-us")
    assert words == " ".join(synthesizer.frontend.phonemize(sentence, "en-us") for sentence in sentences).split()
    for part in speech.parts:
        n_symbols = len(synthesizer.frontend.encode(part.ipa))
        assert system.lm.positions_for(n_symbols, system.bound(n_symbols)) <= 512
    pauses = NO_MARK_PAUSE * (len(speech.parts) - 2) + SENTENCE_PAUSE
    assert speech.seconds == pytest.approx(sum(part.seconds for part in speech.parts) + pauses, abs=1e-3)
    with pytest.raises(ValueError, match="a word of 600 symbols is too long to speak"):
        synthesizer.speak("a" * 600, input_type="ipa")


def test_a_stream_speaks_one_sentence_after_the_other(chain):
    synthesizer = load_synthesizer("tiny")
    with pytest.raises(ValueError, match="language 'xx' is not among"):
        synthesizer.stream(TEXT, "xx")
    text = f"{TEXT} {TEXT} Yes."
    whole = synthesizer.speak(text, seed=3, retries=0)
    chunks = list(synthesizer.stream(text, seed=3))
    assert len(chunks) > 3
    torch.testing.assert_close(torch.cat([chunk.samples for chunk in chunks]), whole.samples, atol=1e-5, rtol=0)
    parts = [part for chunk in chunks for part in chunk.parts]
    assert [part.text for part in parts] == [TEXT, TEXT, "Yes."]
    for part, expected in zip(parts, whole.parts, strict=True):
        assert (part.start, part.seconds, part.finish_reason) == (
            expected.start, expected.seconds, expected.finish_reason)
        torch.testing.assert_close(part.samples, expected.samples, atol=1e-5, rtol=0)
    assert parts[1].start == pytest.approx(parts[0].seconds + SENTENCE_PAUSE, abs=1e-4)
    pause = slice(round(parts[0].seconds * 22050), round(parts[1].start * 22050))
    assert not whole.samples[pause].any()
    together = list(synthesizer.stream(text, seed=3, retries=0, batch_size=2))
    assert [len(chunk.parts) for chunk in together] == [1, 1, 1]
    torch.testing.assert_close(torch.cat([chunk.samples for chunk in together]), whole.samples, atol=1e-5, rtol=0)


def test_every_code_frame_becomes_its_samples(chain):
    system = load_synthesizer("tiny").system
    for frames in (1, 2, 7, 99, 100, 333):
        wave = system.to_wave.wave(torch.zeros(2, frames, dtype=torch.long), 1)
        assert len(wave) == frames * 4 * 256
        assert torch.isfinite(wave).all()


def test_mistakes_of_the_command_line(chain, tmp_path, capsys):
    out = tmp_path / "a.wav"
    speak = ["-m", "tiny", "-o", out, "--text"]
    cases = [
        ([*speak, TEXT, "-l", "fr"], "language 'fr' is not among those this model learned: de, en-us, es"),
        ([*speak, TEXT, "-s", "zoe"], "speaker 'zoe' is not among those this model learned: bruno, ella, lucia"),
        ([*speak, ""], "nothing to s"), ([*speak, "  \n"], "nothing to s"), ([*speak, "!?"], "nothing to s"),
        (["-m", "tiny", "-o", out, "--ipa", "§§"], "no known symbol in '§§'"),
        (["-m", "tiny", "-o", out, "--ipa", ""], "nothing to say"),
        ([*speak, TEXT, "--temperature", -1], "temperature -1.0: must be 0 (greedy) to 10"),
        (["-m", "tiny", "-o", tmp_path / "a.xyz", "--text", TEXT], "a.xyz: cannot write .xyz; use .wav"),
        (["-m", "none", "-o", out, "--text", TEXT], "checkpoints/none/llm: no checkpoint; train one first: python3"),
    ]
    for arguments, message in cases:
        assert message in refused(capsys, *arguments), arguments
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(capsys, "-m", "tiny", "--text", TEXT, "-o", tmp_path / "file/a.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_filelist_is_checked_before_it_is_spoken(chain, tmp_path, capsys):
    lines, out = tmp_path / "lines.txt", tmp_path / "out"
    cases = {
        "a.wav|ella|en-us|Hello.\nb.wav|ella|fr|Bonjour.": "lines.txt, b.wav: language 'fr' is not among",
        "a.wav|ella|en-us|Hello.\nb.wav|zoe|en-us|Hi.": "lines.txt, b.wav: speaker 'zoe' is not among",
        "x/a.wav|Hello.\ny/a.wav|Hi.": "two lines would be written to a.wav",
        "a.wav": "line 1: 1 columns", "": "the filelist is empty", "a.wav|": "line 1: no text",
    }
    for content, message in cases.items():
        lines.write_text(content)
        with pytest.raises(SystemExit):
            run_script("synthesize", "-m", "tiny", "-i", lines, "-o", out)
        assert message in capsys.readouterr().err
        assert not out.exists()
    lines.write_text("a.wav|...")
    assert "lines.txt, a: nothing to s" in refused(capsys, "-m", "tiny", "-i", lines, "-o", out)
    assert "no such filelist" in refused(capsys, "-m", "tiny", "-i", tmp_path / "gone.txt", "-o", out)


def edit_newest(stage: str, edit) -> None:
    folder = Path("checkpoints/tiny") / stage
    path = folder / f"G_step{saved_steps(folder)[0]}.pth"
    checkpoint = read_checkpoint(path)
    edit(checkpoint)
    write_checkpoint(checkpoint, path)


def set_audio(checkpoint: dict) -> None:
    checkpoint["config"]["audio"]["sample_rate"] = 24000


@pytest.mark.parametrize(("stage", "edit", "message"), [
    ("llm", lambda c: c["codec"].update(fingerprint="0123"), "model speaks codes of codec 0123, the vocoder"),
    ("vocoder", lambda c: c["codec"].update(fingerprint="0123"), "stage hears codec 0123"),
    ("llm", set_audio, "llm and vocoder were trained with different audio sections"),
    ("llm", lambda c: c["text"].update(table=99), "trained with another text frontend:\n  table 99 there, 1 here"),
    ("llm", lambda c: c["text"].update(frontend="bytes"), "trained with the frontend 'bytes', this is 'ipa'"),
    ("llm", lambda c: c["weights"].popitem() and c["ema"].popitem(), "weights do not fit this config: .* is missing"),
    ("llm", lambda c: c["config"].update(nonsense=1), "nonsense: unknown key"),
    ("vocoder", lambda c: c.update(speakers=["a", "b", "c"]), "speaker 'ella' is not among"),
    ("llm", lambda c: c.update(stage="vocoder"), "llm: holds checkpoints of stage vocoder"),
])
def test_a_chain_that_does_not_fit_is_refused(own_chain, stage, edit, message):
    edit_newest(stage, edit)
    with pytest.raises(ValueError, match=message):
        Synthesizer("tiny").speak(TEXT)


@pytest.fixture
def hidden_chain(own_chain):
    """The chain with a vocoder stage on hidden states, and nothing else."""
    stage = {"conditioning": "hidden", "segment_frames": 24, "adversarial_frames": 12, "max_steps": 2}
    shutil.rmtree("checkpoints/tiny/vocoder")
    run_script("train_vocoder", "-c", write_config(train__vocoder=stage), "-m", "tiny")
    shutil.move("checkpoints/tiny/llm", "llm")


def test_hidden_states_are_spoken(hidden_chain):
    system = Synthesizer("tiny").system
    greedy = {"sampling": Sampling(temperature=0)}
    ipa = ["həlˈoʊ", "ðə kwˈɪk bɹˈaʊn fˈɑːks dʒˈʌmps."]
    voice = system.voice("ella", "de")
    utterances = [Utterance(one, "de", voice) for one in ipa]
    together = system.speak_parts(utterances, **greedy)
    for one, utterance, part in zip(ipa, utterances, together, strict=True):
        alone, = system.speak_parts([utterance], **greedy)
        torch.testing.assert_close(part.samples, alone.samples, atol=1e-5, rtol=0)
        text = torch.tensor(system.frontend.encode(one))
        generated, = system.lm.generate([text], torch.tensor([1]), torch.tensor([0]), [system.bound(len(text))],
                                        greedy["sampling"])
        frames = torch.tensor([generated.codes.shape[1]])
        with torch.no_grad():
            states = system.lm.frame_states(text[None], torch.tensor([len(text)]), generated.codes[None], frames,
                                            torch.tensor([1]), torch.tensor([0]))
            decoder, vocoder = system.to_wave.decoder, system.to_wave.vocoder
            mel = decoder(states, frames, torch.tensor([1]), torch.zeros(1), 4 * int(frames))
            torch.testing.assert_close(part.samples, vocoder(mel).wave[0], atol=1e-4, rtol=0)
        *_, (_, streamed) = system.stream_part(utterance, **greedy)
        torch.testing.assert_close(streamed.samples, part.samples, atol=1e-4, rtol=0)
    other, = system.speak_parts([Utterance(ipa[0], "de", system.voice("bruno", "de"))], **greedy)
    assert not other.samples.equal(together[0].samples)
    system.frames_per_symbol = 4.0
    for piece in system.pieces("nˈɛvɚ " * 60 + "ˈɛndɪŋ", voice):
        n_symbols = len(system.frontend.encode(piece))
        assert system.lm.state_positions_for(n_symbols, system.bound(n_symbols)) <= 512


def test_hidden_states_go_on_in_the_voice_of_a_recording(hidden_chain, tmp_path):
    speak = ["-m", "tiny", "--ipa", "həlˈoʊ", "--seed", 1, "-o"]
    run_script("synthesize", *speak, tmp_path / "plain.wav")
    reference = ["--reference", next(Path("data").glob("wavs/ella*.wav")), "--reference-text", "ɡˈʊd"]
    run_script("synthesize", *speak, tmp_path / "voice.wav", *reference)
    plain, voice = (load_audio(tmp_path / f"{name}.wav", 22050) for name in ("plain", "voice"))
    assert not voice.equal(plain)


@pytest.mark.parametrize(("edit", "message"), [
    (lambda c: c["weights"].pop("lm.heads.0.weight") is c["ema"], "do not fit this config: lm.heads.0.weight is miss"),
    (lambda c: c["weights"].update({"lm.x": c["weights"]["lm.heads.0.weight"]}), "this config: lm.x is unknown here"),
    (lambda c: c["text"].update(table=99), "trained with another text frontend:\n  table 99 there, 1 here"),
])
def test_a_checkpoint_of_hidden_states_that_does_not_fit_is_refused(hidden_chain, edit, message):
    edit_newest("vocoder", edit)
    with pytest.raises(ValueError, match=message):
        Synthesizer("tiny")


def test_missing_and_damaged_stages(own_chain, caplog):
    newest = Path("checkpoints/tiny/llm/G_step4.pth")
    newest.write_bytes(newest.read_bytes()[:5000])
    assert len(Synthesizer("tiny").speak(TEXT, seed=0).samples) > 1000
    assert "passed over: checkpoints/tiny/llm/G_step4.pth: truncated" in caplog.text
    shutil.rmtree("checkpoints/tiny/vocoder")
    with pytest.raises(ValueError, match=r"tiny/vocoder: no checkpoint; train one first: python3 train_vocoder\.py"):
        Synthesizer("tiny")


def test_without_a_name_someone_who_speaks_the_language_speaks(chain):
    system = load_synthesizer("tiny").system
    assert system.speaker_languages == {"bruno": "de", "ella": "en-us", "lucia": "es"}
    assert [system.speakers[system.check(language, None)[1]] for language in ("de", "en-us", "es")] == system.speakers
    assert speaker_for("fr", ["bruno"], {"bruno": "de"}) == "bruno"
