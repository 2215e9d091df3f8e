"""make_demo_corpus: what espeak-ng says is complete, timed, and the same every time."""

import itertools
import json

import numpy as np
import pytest
import soundfile

from data_utils import read_filelist
from make_demo_corpus import VOICES, Espeak, make_corpus, sentences


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    make_corpus(out, 30)
    return out


def test_filelists_name_spoken_sentences_of_every_voice(corpus):
    training, validation = read_filelist(corpus / "train.txt"), read_filelist(corpus / "validation.txt")
    clips = training + validation
    assert len(clips) == len({clip.text for clip in clips}) == 30
    speakers = {(voice.speaker, voice.language) for voice in VOICES}
    assert len(speakers) >= 3
    for part in (training, validation):
        assert {(clip.speaker, clip.language) for clip in part} == speakers
    for clip in clips:
        info = soundfile.info(clip.path)
        assert (info.samplerate, info.channels, info.subtype) == (22050, 1, "PCM_16")
        assert 1.0 < info.duration < 9.0
        assert np.abs(soundfile.read(clip.path)[0]).max() > 0.05
    assert not list(corpus.rglob("*unfinished*")) + list(corpus.rglob("*.tmp"))


def test_every_phoneme_has_a_time_within_its_clip(corpus):
    timed = json.loads((corpus / "phonemes.json").read_text(encoding="utf-8"))
    assert sorted(timed) == sorted(f"wavs/{path.name}" for path in corpus.glob("wavs/*.wav"))
    for path, phonemes in timed.items():
        starts = [start for _, start in phonemes]
        assert starts == sorted(starts)
        assert 0 <= starts[0] < 0.1
        assert starts[-1] < soundfile.info(corpus / path).duration + 1e-4
        assert sum(bool(ipa) for ipa, _ in phonemes) > 10


def test_times_are_of_the_samples():
    # the vowel of "see" is periodic, the fricative before it is not
    espeak = Espeak("en-us+f3")
    samples, phonemes = espeak.speak("see")
    (_, _), (vowel, start), *_ = [(ipa, start) for ipa, start in phonemes if ipa]
    assert vowel == "ˈiː"
    zero_crossings = np.diff(np.signbit(samples.astype(float)))
    cut = round(start * espeak.sample_rate)
    assert zero_crossings[:cut].mean() > 2 * zero_crossings[cut: cut + 2000].mean()


def test_an_utterance_does_not_depend_on_other_objects():
    first, other = Espeak("en-us+f3"), Espeak("de+m3")
    samples, phonemes = first.speak("The same words.")
    other.speak("Etwas anderes.")
    again, phonemes_again = Espeak("en-us+f3").speak("The same words.")
    np.testing.assert_array_equal(again, samples)
    assert phonemes_again == phonemes


def test_a_corpus_is_the_same_every_time(corpus, tmp_path):
    make_corpus(tmp_path, 30)
    for path in itertools.chain(corpus.glob("*.*"), corpus.glob("wavs/*")):
        assert (tmp_path / path.relative_to(corpus)).read_bytes() == path.read_bytes()


def test_more_sentences_begin_with_the_same_ones():
    for voice in VOICES:
        assert sentences(voice, 40)[:10] == sentences(voice, 10)
        assert not any("{" in text or "|" in text for text in sentences(voice, 200))


def test_voices_sound_different():
    spoken = [Espeak(f"{voice.language}+{voice.variant}").speak("Anna")[0] for voice in VOICES]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(spoken, 2))


def test_every_phrase_can_be_spoken():
    for voice in VOICES:
        phrases = [*voice.subjects, *voice.times, *(" ".join(action) for action in voice.actions)]
        _, phonemes = Espeak(f"{voice.language}+{voice.variant}").speak(". ".join(phrases))
        assert len({ipa for ipa, _ in phonemes}) > 30


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="--sentences 3"):
        make_corpus(tmp_path, 3)
    with pytest.raises(ValueError, match="at most"):
        make_corpus(tmp_path, 10**6)
    with pytest.raises(ValueError, match="no voice 'atlantean'"):
        Espeak("atlantean")
