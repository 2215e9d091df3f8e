"""Text of any length and kind, on the tiny chain, which says noise and seldom ends by itself."""

import io

import numpy as np
import pytest
import soundfile
import torch
from conftest import run_script

from alignments.textgrids import Interval
from mel_processing import load_audio
from models.layers.sampling import Sampling
from models.token_lm import Generated
from synthesis.speech import Part, Speech
from synthesis.synthesizer import ODD
from synthesis.writing import write_file, write_pcm
from synthesize import load_synthesizer, loaded

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "never", "comes", "back"]
ODD_TEXTS = [
    "Yes.", "No", "3", "A", "I.", "Hm...", "?! What", "Oh", "0", "3.14159", "1,000,000", "12 34 56 78 90", "$5.99!",
    "7%", "10:30", "1/2", "no no no no no no no no no", "ha" * 20, "buffalo " * 30, "a b c d e f g h i j", "...and?",
    "Dr. Smith, e.g., of the U.S.", "(Parentheses)", '"Quoted," he said.', "UPPER CASE", "émigré naïve", "x", "- a -",
    "Stop! Stop! Stop!", "so, so, so", "https://example.org/page", "a@b.org", "🙂 smile", "1 2 3 4 5 6 7 8 9 " * 6,
    " ".join(WORDS[i * i % len(WORDS)] for i in range(400)) + ".",
]


@pytest.fixture
def synthesizer(chain):
    loaded.cache_clear()
    yield load_synthesizer("tiny")
    loaded.cache_clear()


def test_no_text_runs_past_its_bound_and_every_odd_one_is_reported(synthesizer, tmp_path, caplog):
    system, reasons = synthesizer.system, set()
    chunks = synthesizer.stream("\n\n".join(ODD_TEXTS), seed=0, batch_size=8, retries=1)
    written = write_file(tmp_path / "odd.wav", chunks, 22050)
    assert len(written.parts) > len(ODD_TEXTS)  # the longest one takes several
    assert {part.text for part in written.parts} >= {"Yes.", "No", "3", "0", "x"}
    for part in written.parts:
        assert part.seconds * system.code_frame_rate <= system.bound(len(system.frontend.encode(part.ipa))) + 1e-3
        reasons.add(part.finish_reason)
        if part.finish_reason != "stop":
            assert f"{ODD[part.finish_reason]} (after 1 more attempts): {part.ipa}" in caplog.messages
    warned = [message for message in caplog.messages if not message.startswith("left out: nothing to speak in")]
    assert len(warned) == sum(part.finish_reason != "stop" for part in written.parts)
    assert reasons == {"stop", "length"}
    assert soundfile.info(tmp_path / "odd.wav").duration == pytest.approx(written.seconds, abs=1e-3)
    assert not any(len(part.samples) for part in written.parts)


def said_by_turns(monkeypatch, system, attempts: list[list[Generated]]) -> list[int]:
    """Makes the language model say these; gives the list in which it is noted how many texts it was given each time."""
    calls = []

    def generate(text, *arguments, **options):
        calls.append(len(text))
        return attempts[len(calls) - 1]

    monkeypatch.setattr(system.fast_lm, "generate", generate)
    return calls


def codes(n_frames: int, repeated: int = 0) -> torch.Tensor:
    natural = torch.randint(16, (2, n_frames), generator=torch.Generator().manual_seed(n_frames))
    return torch.cat([natural, natural[:, -1:].repeat(1, repeated)], dim=1)


def test_what_did_not_end_well_is_spoken_again(synthesizer, monkeypatch, caplog):
    caplog.set_level("INFO")
    fine, endless = Generated(codes(20), "stop"), Generated(codes(30), "length")
    stuck = Generated(codes(30, 90), "stop")
    calls = said_by_turns(monkeypatch, synthesizer.system, [[fine, stuck, endless], [endless, stuck], [fine]])
    speech = synthesizer.speak("One. Two. Three.", seed=0, retries=1)
    assert calls == [3, 2]
    assert [(part.finish_reason, part.retries) for part in speech.parts] == [("stop", 0), ("length", 1), ("length", 1)]
    calls = said_by_turns(monkeypatch, synthesizer.system, [[stuck], [stuck], [fine]])
    part, = synthesizer.speak("One.", seed=0, retries=2).parts
    assert (part.finish_reason, part.retries) == ("stop", 2)
    assert part.seconds == pytest.approx(20 * 1024 / 22050)
    assert f"spoken 3 times until it ended well: {part.ipa}" in caplog.messages
    calls = said_by_turns(monkeypatch, synthesizer.system, [[stuck]])
    part, = synthesizer.speak("One.", sampling=Sampling(temperature=0), retries=2).parts
    assert (calls, part.finish_reason, part.retries) == ([1], "stuck", 0)
    assert 30 < part.seconds * synthesizer.system.code_frame_rate < 30 + 33  # cut off when it was noticed


def test_silence_is_noticed(synthesizer, monkeypatch):
    system = synthesizer.system
    said_by_turns(monkeypatch, system, [[Generated(codes(60), "stop")]] * 2)
    monkeypatch.setattr(system.to_wave, "wave", lambda *_: torch.zeros(40000))
    part, = synthesizer.speak("One.", retries=1).parts
    assert (part.finish_reason, part.retries) == ("silent", 1)


def test_passages_are_spoken_in_their_languages(synthesizer, monkeypatch):
    given, generate = [], synthesizer.system.fast_lm.generate

    def spy(text, speaker, language, *arguments, **options):
        given.append((len(text), language.tolist()))
        return generate(text, speaker, language, *arguments, **options)

    monkeypatch.setattr(synthesizer.system.fast_lm, "generate", spy)
    text = 'Hello. <lang xml:lang="de">Guten Tag! Wie geht es?</lang> Fine.'
    speech = synthesizer.speak(text, seed=0, retries=0)
    ids = [synthesizer.languages.index(name) for name in ("en-us", "de", "en-us")]
    assert given == [(4, [ids[0], ids[1], ids[1], ids[2]])]
    assert speech.parts[1].ipa == synthesizer.frontend.phonemize("Guten Tag!", "de")
    with pytest.raises(ValueError, match="language 'fr' is not among"):
        synthesizer.stream('Hello. <lang xml:lang="fr">Bonjour.</lang>')


def test_long_text_is_written_as_it_is_spoken(synthesizer, tmp_path, capsys, monkeypatch):
    (tmp_path / "book.txt").write_text("One. Two.\n\nThree?", encoding="utf-8-sig")
    command = ["-m", "tiny", "--seed", 1, "--retries", 0, "-o"]
    run_script("synthesize", *command, tmp_path / "a.flac", "--text-file", tmp_path / "book.txt")
    run_script("synthesize", *command, tmp_path / "b.flac", "--text", "One. Two.\n\nThree?")
    a, b = (load_audio(tmp_path / name, 22050) for name in ("a.flac", "b.flac"))
    torch.testing.assert_close(a, b / max(1, b.abs().max()), atol=1e-4, rtol=0)
    pipe = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(pipe))
    run_script("synthesize", *command, "-", "--text", "One. Two.\n\nThree?")
    heard = torch.from_numpy(np.frombuffer(pipe.getvalue(), np.int16).astype(np.float32)) / 32767
    torch.testing.assert_close(heard, a, atol=1e-4, rtol=0)
    assert not list(tmp_path.glob(".unfinished*"))


def test_mistakes_of_long_text(synthesizer, tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes("Zürich".encode("latin-1"))
    cases = {
        "gone.txt: no such file": ["--text-file", tmp_path / "gone.txt", "-o", tmp_path / "a.wav"],
        "latin.txt: not UTF-8": ["--text-file", tmp_path / "latin.txt", "-o", tmp_path / "a.wav"],
        "--mel is drawn of speech held in memory": ["--text", "Hi.", "-o", "-", "--mel", tmp_path / "a.png"],
        "a.xyz: cannot write .xyz": ["--text-file", tmp_path / "latin.txt", "-o", tmp_path / "a.xyz"],
    }
    for message, arguments in cases.items():
        if message.startswith("a.xyz"):
            (tmp_path / "latin.txt").write_text("Zurich", encoding="utf-8")
        with pytest.raises(SystemExit) as stop:
            run_script("synthesize", "-m", "tiny", *arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["latin.txt"]


def test_peaks_are_clipped(synthesizer, tmp_path, caplog):
    chunk = next(synthesizer.stream("One.", seed=0))
    chunk.samples = torch.tensor([0.5, -2.0, 1.5])
    written = write_file(tmp_path / "a.wav", [chunk], 22050)
    torch.testing.assert_close(load_audio(tmp_path / "a.wav", 22050), torch.tensor([0.5, -1, 1]), atol=1e-4, rtol=0)
    assert "a.wav: 2 of 3 samples were clipped" in caplog.text
    assert written.seconds == 3 / 22050
    file = io.BytesIO()
    write_pcm(file, [chunk])
    assert np.frombuffer(file.getvalue(), np.int16).tolist() == [16384, -32767, 32767]


def test_times_are_kept_only_where_they_are_wanted():
    part = Part("hˈaɪ", torch.zeros(5), 5 / 22050, "stop", words=[Interval(0, 1, "hˈaɪ")], phones=[])
    for wanted in (False, True):
        written = write_pcm(io.BytesIO(), [Speech(part.samples, 22050, [part])], wanted)
        kept, = written.parts
        assert (kept.words, kept.phones) == ((part.words, part.phones) if wanted else (None, None))
        assert (kept.ipa, len(kept.samples), written.seconds) == (part.ipa, 0, part.seconds)
