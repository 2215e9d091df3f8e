"""Measures of evaluation/ beside references: jiwer on known strings, SciPy, brute force, tones whose pitch is known."""

import itertools
import json

import jiwer
import numpy as np
import pytest
import torch
from transformers import (
    AutoProcessor,
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from config import AudioConfig
from data_utils import read_filelist
from evaluation.alignment import ALPHA, RATE, analyse, compare_with_recording, dtw_path, mel_cepstra
from evaluation.alignment import mel_cepstral_distortion as mcd
from evaluation.bootstrap import estimate
from evaluation.delivery import measure_delivery, speech_only
from evaluation.fidelity import compare_copy, copy_mel_l1
from evaluation.naturalness import predict_opinion
from evaluation.quality import measure_utterance, summarise
from evaluation.recognition import load_recognizer
from evaluation.utterances import Utterance, find_waves, read_utterances
from evaluation.words import comparable, count_errors
from mel_processing import audio_seconds, load_audio


def harmonics(f0, seconds=1.0, rate=RATE):
    """A buzz of constant pitch (samples,)."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.05 * sum(np.sin(2 * np.pi * f0 * k * t) / k for k in range(1, 15))).astype(np.float32)


@pytest.fixture
def spoken(chain) -> list:
    """Two clips of espeak-ng's English: (wave (samples,) at 16 kHz, text)."""
    clips = [clip for clip in read_filelist("data/train.txt") if clip.language.startswith("en")]
    shortest = sorted(clips, key=lambda clip: audio_seconds(clip.path))[:2]
    return [(load_audio(clip.path, RATE), clip.text) for clip in shortest]


@pytest.mark.parametrize(("text", "language", "expected"), [
    ("“Don’t!” she said — twice.", "en-us", "don't she said twice"),
    ("It cost 1,250 in room 12.", "en-us", "it cost one thousand two hundred and fifty in room twelve"),
    ("Pi is 3.5", "en-us", "pi is three point five"),
    ("Version 1.2.3", "en", "version one two three"),
    ("21 Männer, 3,5 Meter", "de", "einundzwanzig männer drei komma fünf meter"),
    ("well-known ﬁsh 'quoted'", "en-us", "well known fish quoted"),
    ("12 x", "cmn", "12 x"),
    ("...", "en-us", ""),
])
def test_texts_are_written_in_one_way(text, language, expected):
    assert comparable(text, language) == expected


@pytest.mark.parametrize(("said", "heard"), [
    ("the cat sat on the mat", "the cat sat mat"), ("a b c", "a b c"), ("one two", ""), ("one", "one two three"),
])
def test_errors_are_those_of_jiwer(said, heard):
    errors = count_errors(said, heard)
    assert errors.word_errors / errors.words == pytest.approx(jiwer.wer(said, heard))
    assert errors.character_errors / errors.characters == pytest.approx(jiwer.cer(said, heard))


def test_known_errors():
    errors = count_errors("the cat sat", "the bat sat down")
    assert (errors.word_errors, errors.words, errors.character_errors, errors.characters) == (2, 3, 6, 11)
    with pytest.raises(ValueError, match="no word"):
        count_errors("", "something")


def test_interval_of_a_mean_covers_it_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        result = estimate(random.normal(3.0, 1.0, 40), seed=1)
        assert result.low < result.mean < result.high
        covered += result.low <= 3.0 <= result.high
    assert covered >= 88


def test_rates_are_weighted_with_their_references():
    result = estimate([0.5, 0.0, 0.1], [10, 30, 60])
    assert result.mean == pytest.approx((5 + 0 + 6) / 100)
    assert result.low <= result.mean <= result.high
    assert (estimate([0.3], [5]).mean, estimate([0.3], [5]).low) == (0.3, None)
    assert estimate([1.0, 2.0, 4.0]) == estimate([1.0, 2.0, 4.0])
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_pitch_of_a_tone():
    f0 = analyse(harmonics(220.0)).f0
    assert np.mean(f0 > 0) > 0.9
    assert np.median(f0[f0 > 0]) == pytest.approx(220, abs=0.5)
    octave = compare_with_recording(harmonics(220.0), harmonics(110.0))
    assert octave["f0_rmse"] == pytest.approx(1200, abs=10)
    assert octave["duration_ratio"] == 1


def test_mel_cepstra_are_the_spectrum_on_the_warped_axis():
    """SPTK's definition: ln|H(w)| = Re sum_m c_m z~^-m with z~^-1 = (z^-1 - alpha) / (1 - alpha z^-1)."""
    random = np.random.default_rng(0)
    c = random.normal(size=25) / np.arange(1, 26)
    z = np.exp(-1j * np.linspace(0, np.pi, 2049))
    warped = (z - ALPHA) / (1 - ALPHA * z)
    log_magnitude = (c[:, None] * warped ** np.arange(25)[:, None]).sum(0).real
    np.testing.assert_allclose(mel_cepstra(np.exp(2 * log_magnitude)[None])[0], c, atol=1e-3)


def test_distortion_of_known_cepstra():
    a, b = np.zeros((4, 25)), np.zeros((4, 25))
    b[:, 0] = 9.0  # loudness is not counted
    assert mcd(a, b) == 0
    b[:, 3] = 0.5
    assert mcd(a, b) == pytest.approx(10 / np.log(10) * np.sqrt(2 * 0.25))


def test_path_is_the_cheapest_one():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(5, 3)), random.normal(size=(4, 3))
    cost = np.linalg.norm(a[:, None] - b[None], axis=2)

    def cheapest(i, j):
        if (i, j) == (0, 0):
            return cost[0, 0]
        before = [(i - 1, j), (i, j - 1), (i - 1, j - 1)]
        return cost[i, j] + min(cheapest(*step) for step in before if min(step) >= 0)

    path = dtw_path(a, b)
    assert tuple(path[0]) == (0, 0)
    assert tuple(path[-1]) == (4, 3)
    assert all(tuple(step) in {(0, 1), (1, 0), (1, 1)} for step in np.diff(path, axis=0))
    assert cost[path[:, 0], path[:, 1]].sum() == pytest.approx(cheapest(4, 3))


def test_speech_beside_itself_and_slower(spoken):
    wave = speech_only(spoken[0][0].numpy(), RATE)
    same = compare_with_recording(wave, wave)
    assert same == {"mcd": 0, "f0_rmse": 0, "voicing_error": 0, "duration_ratio": 1}
    half_rate = np.interp(np.arange(0, len(wave), 0.5), np.arange(len(wave)), wave).astype(np.float32)
    other = compare_with_recording(half_rate, wave)
    assert other["duration_ratio"] == pytest.approx(2, abs=0.01)
    assert other["f0_rmse"] == pytest.approx(1200, abs=250)
    assert other["mcd"] > 3
    assert set(compare_with_recording(wave[:0], wave).values()) == {None}


def test_copies_get_worse_with_noise(spoken):
    wave = spoken[0][0]
    noise = torch.randn(wave.shape, generator=torch.Generator().manual_seed(0))
    same, near, far = (compare_copy((wave + level * noise).numpy(), wave.numpy()) for level in (0, 0.003, 0.1))
    assert same["pesq"] > 4.6 > near["pesq"] > far["pesq"] >= 1
    assert same["stoi"] == pytest.approx(1)
    assert same["stoi"] > near["stoi"] > far["stoi"]
    audio = AudioConfig(sample_rate=RATE)
    assert copy_mel_l1(wave, wave, audio) == 0 < copy_mel_l1(wave + 0.1 * noise, wave, audio)
    assert compare_copy(np.zeros(2000, np.float32), np.zeros(2000, np.float32)) == {"pesq": None, "stoi": None}


def test_opinion_of_noise_is_lower(spoken):
    wave = spoken[0][0].numpy()
    noisy = wave + 0.1 * np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32)
    clean, worse = predict_opinion(wave), predict_opinion(noisy)
    assert clean.keys() == {"dnsmos", "dnsmos_signal", "dnsmos_background"}
    assert all(1 <= worse[name] < clean[name] <= 5 for name in ("dnsmos", "dnsmos_background"))


def test_silence_around_speech():
    silence = np.zeros(RATE // 2, np.float32)
    wave = np.concatenate([silence, harmonics(150.0), silence, silence])
    figures = measure_delivery(wave, RATE)
    assert figures["seconds"] == 2.5
    assert figures["leading_silence"] == pytest.approx(0.5, abs=0.03)
    assert figures["trailing_silence"] == pytest.approx(1.0, abs=0.03)
    assert -40 < figures["loudness"] < -10
    assert len(speech_only(wave, RATE)) == pytest.approx(RATE, abs=800)
    assert len(speech_only(wave[:0], RATE)) == 0
    assert measure_delivery(silence, RATE) == {
        "seconds": 0.5, "loudness": None, "leading_silence": None, "trailing_silence": None,
    }


def test_pocketsphinx_hears_the_same_whatever_came_before(spoken):
    recognizer = load_recognizer()
    (a, text), (b, _) = ((wave.numpy(), text) for wave, text in spoken)
    first = recognizer.hear(a, "en-us")
    assert set(first.split()) & set(comparable(text, "en-us").split())
    recognizer.hear(b, "en-us")
    assert recognizer.hear(a, "en-us") == first
    assert [recognizer.knows(language) for language in ("en-us", "en-gb", "de")] == [True, True, False]


def test_ctc_recognizer_from_a_folder(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4}))
    tokenizer = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json", bos_token=None, eos_token=None, pad_token="<pad>",
                                     unk_token="<unk>")
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=[8] * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config).eval()
    model.save_pretrained(tmp_path)
    wave = harmonics(200.0)
    recognizer = load_recognizer(tmp_path)
    assert recognizer.knows("nl")
    features = AutoProcessor.from_pretrained(tmp_path)(wave, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        ids = model(**features).logits[0].argmax(-1).tolist()
    letters = "".join(" " if k == 2 else "\0\0 ab"[k] for k, _ in itertools.groupby(ids) if k > 1)
    assert recognizer.hear(wave, "nl") == letters.strip()


def test_whisper_recognizer_from_a_folder(tmp_path):
    letters = [*"abcdefghijklmnopqrstuvwxyz", "Ġ", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    special = ["<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ["<|endoftext|>", *special]}
    WhisperProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=16, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_target_positions=32, pad_token_id=ids["<|endoftext|>"], bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"], decoder_start_token_id=ids["<|startoftranscript|>"],
    ))
    model.generation_config = GenerationConfig(
        is_multilingual=True, max_length=20, no_timestamps_token_id=ids["<|notimestamps|>"],
        lang_to_id={name: ids[name] for name in ("<|en|>", "<|de|>")},
        task_to_id={name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")},
        eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"], bos_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
    )
    model.save_pretrained(tmp_path)
    recognizer = load_recognizer(tmp_path)
    assert [recognizer.knows(language) for language in ("de", "en-us", "cmn")] == [True, True, False]
    heard = recognizer.hear(harmonics(200.0), "de")
    assert heard
    assert heard == recognizer.hear(harmonics(200.0), "de")


def test_folder_without_a_recognizer(tmp_path):
    with pytest.raises(ValueError, match="no Whisper or CTC model"):
        load_recognizer(tmp_path)


def test_an_utterance_has_the_figures_that_can_be_had(spoken):
    recognizer = load_recognizer()
    wave, text = spoken[0]
    figures = measure_utterance(wave, text, RATE, "en-us", recognizer, wave)
    assert figures["mcd"] == 0
    assert 0 <= figures["cer"] < 1.5
    assert 1 < figures["dnsmos"] < 5
    assert "pesq" not in figures
    assert measure_utterance(torch.zeros(100), "eins", RATE, "de", recognizer) == {}
    silent = measure_utterance(torch.zeros(RATE), "one two", RATE, "en-us", recognizer)
    assert (silent["cer"], silent["wer"], silent.get("dnsmos")) == (1.0, 1.0, None)


def test_summary_is_of_those_that_have_a_value():
    summary = summarise([{"mcd": 4.0, "cer": 0.1, "characters": 10}, {"mcd": None}, {"mcd": 6.0}])
    assert (summary["mcd"].mean, summary["mcd"].n) == (5.0, 2)
    assert summary["cer"].n == 1
    assert "wer" not in summary


def test_lines_of_filelists(tmp_path):
    (tmp_path / "a.txt").write_text("x/1.wav|anna|de|Eins\nx/2.wav|anna|de|Zwei\nx/3.wav|bo|de|Drei\n")
    (tmp_path / "b.txt").write_text("4.wav|Four\n")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/1.wav").touch()
    lines = read_utterances([tmp_path / "a.txt", tmp_path / "b.txt"], "en-us", limit=1)
    assert lines == [
        Utterance("1", "Eins", "anna", "de", tmp_path / "x/1.wav"), Utterance("3", "Drei", "bo", "de", None),
        Utterance("4", "Four", "default", "en-us", None),
    ]
    assert [line.spoken_by for line in lines] == ["anna", "bo", None]
    assert lines[0].seed(0) == Utterance("1", "other", "x", "nl", None).seed(0) != lines[0].seed(1)
    with pytest.raises(ValueError, match=r"2 of 3 lines, the first 3, 4"):
        find_waves(tmp_path / "x", lines)
    (tmp_path / "b.txt").write_text("1.wav|Four\n")
    lines = read_utterances([tmp_path / "a.txt", tmp_path / "b.txt"], "en-us")
    assert [line.name for line in lines] == ["anna_1", "2", "3", "default_1"]
    (tmp_path / "b.txt").write_text("1.wav|Four\ny/1.wav|Five\n")
    with pytest.raises(ValueError, match=r"2 lines would be written to default_1\.wav"):
        read_utterances([tmp_path / "a.txt", tmp_path / "b.txt"], "en-us")
