"""Pieces of different texts in one batch, on the tiny chain."""

import pytest
import torch
from conftest import run_script

from mel_processing import load_audio
from models.layers.sampling import Sampling
from synthesis.lines import Line, speak_lines
from synthesis.speech import Utterance
from synthesize import load_synthesizer, loaded

SAMPLING = Sampling()
LINES = [
    Line("a", "Yes.", "en-us", "ella"), Line("b", "The quick brown fox jumps over a dog. No.", "en-us", None),
    Line("c", "Guten Tag.", "de", "bruno"), Line("d", 'Hello. <lang xml:lang="de">Hallo.</lang>', "en-us", "bruno"),
    Line("e", "Uno.", "es", None),
]


@pytest.fixture
def synthesizer(chain):
    loaded.cache_clear()
    yield load_synthesizer("tiny")
    loaded.cache_clear()


def test_lines_spoken_together_are_those_spoken_alone_and_in_their_order(synthesizer, monkeypatch):
    batches, speak_parts = [], synthesizer.system.speak_parts

    def spy(utterances, **options):
        batches.append([len(utterance.ipa) for utterance in utterances])
        return speak_parts(utterances, **options)

    monkeypatch.setattr(synthesizer.system, "speak_parts", spy)
    monkeypatch.setattr("synthesis.lines.WINDOW", 2)
    spoken = list(speak_lines(synthesizer, iter(LINES), batch_size=2, seed=3, retries=1))
    assert [line for line, _ in spoken] == LINES
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]  # 6 pieces of 4 lines, then 1
    lengths = [length for batch in batches[:3] for length in batch]
    assert lengths == sorted(lengths, reverse=True)
    for line, speech in spoken:
        alone = synthesizer.speak(line.text, line.language, line.speaker, seed=3, retries=1)
        torch.testing.assert_close(speech.samples, alone.samples, atol=1e-5, rtol=0)
        assert [(part.text, part.start) for part in speech.parts] == [(part.text, part.start) for part in alone.parts]
    with pytest.raises(ValueError, match=r"^bad: nothing to speak in '\?!'$"):
        list(speak_lines(synthesizer, [*LINES, Line("bad", "?!", "de", None)]))


def test_a_recordings_voice_and_a_speakers_in_one_batch(synthesizer, chain):
    system, reference = synthesizer.system, next(chain.glob("data/wavs/ella*.wav"))
    voices = [system.voice("ella", "en-us"), system.voice("bruno", "de", reference, "ɡˈʊd"),
              system.voice("lucia", "es", reference)]

    def utterances():
        return [Utterance("həlˈoʊ", language, voice, torch.Generator().manual_seed(i))
                for i, (language, voice) in enumerate(zip(("en-us", "de", "es"), voices, strict=True))]

    for together, one in zip(system.speak_parts(utterances(), sampling=SAMPLING), utterances(), strict=True):
        alone, = system.speak_parts([one], sampling=SAMPLING)
        torch.testing.assert_close(together.samples, alone.samples, atol=1e-5, rtol=0)


def test_a_filelist_longer_than_a_batch(synthesizer, tmp_path):
    (tmp_path / "lines.txt").write_text("".join(f"{i}.wav|{'no ' * (i % 4 + 1)}\n" for i in range(11)))
    run_script("synthesize", "-m", "tiny", "-i", tmp_path / "lines.txt", "-o", tmp_path, "--seed", 1, "--retries", 0)
    for i in (0, 6):
        speech = synthesizer.speak("no " * (i % 4 + 1), seed=1, retries=0).samples
        torch.testing.assert_close(load_audio(tmp_path / f"{i}.wav", 22050), speech / max(1, speech.abs().max()),
                                   atol=1e-4, rtol=0)
