"""mel_processing against librosa and scipy, and audio files of every kind and defect."""

import errno
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from config import AudioConfig
from mel_processing import (
    TruncatedAudio,
    audio_rate,
    audio_seconds,
    check_upload,
    frames_for,
    griffin_lim,
    load_audio,
    log_mel,
    magnitudes,
    samples_for,
    save_audio,
)

DEFAULT = AudioConfig()
VOCOS = AudioConfig(sample_rate=24000, n_mels=100, mel_scale="htk", mel_norm=None, padding="center", floor=1e-7)
STUDIO = AudioConfig(sample_rate=48000, n_fft=2048, win_length=2048, hop_length=512, n_mels=128)
NARROW = AudioConfig(n_fft=1024, win_length=800, f_min=60, f_max=7600, padding="center")
CONFIGS = pytest.mark.parametrize("config", [DEFAULT, VOCOS, STUDIO, NARROW], ids=["default", "vocos", "48k", "narrow"])


def chirp(sample_rate, seconds=1.0, amplitude=0.5):
    """A voice-like sweep with harmonics, and a little noise."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * (120 * t + 40 * t**2)
    wave = sum(np.sin(k * phase) / k for k in range(1, 30)) / 3
    return (amplitude * wave + 1e-3 * np.random.default_rng(0).standard_normal(len(t))).astype(np.float32)


@CONFIGS
def test_log_mel_equals_librosas(config):
    wave = chirp(config.sample_rate)
    center = config.padding == "center"
    edge = (config.n_fft - config.hop_length) // 2
    mel = librosa.feature.melspectrogram(
        y=wave if center else np.pad(wave, edge, mode="reflect"), sr=config.sample_rate, n_fft=config.n_fft,
        hop_length=config.hop_length, win_length=config.win_length, window="hann", center=center, pad_mode="reflect",
        power=1.0, n_mels=config.n_mels, fmin=config.f_min, fmax=config.f_max, htk=config.mel_scale == "htk",
        norm=config.mel_norm,
    )
    expected = np.log(np.maximum(mel, config.floor))
    ours = log_mel(torch.from_numpy(wave).unsqueeze(0), config)[0].numpy()
    assert ours.shape == (config.n_mels, frames_for(len(wave), config))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_magnitudes_equal_scipys():
    wave = chirp(22050)
    # scipy divides by the sum of the window, and its window is symmetric if not told otherwise
    window = scipy.signal.get_window("hann", 1024, fftbins=True)
    stft = scipy.signal.ShortTimeFFT(window, hop=256, fs=22050, fft_mode="onesided", phase_shift=None)
    padded = np.pad(wave, 512, mode="reflect")
    starts = range(0, len(padded) - 1024 + 1, 256)
    expected = np.abs(stft.stft(padded, p0=2, p1=2 + len(starts)))
    ours = magnitudes(torch.from_numpy(wave).unsqueeze(0), 1024, 256, 1024)[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_magnitudes_have_a_finite_slope_at_silence():
    wave = torch.zeros(1, 4096, requires_grad=True)
    log_mel(wave, DEFAULT).sum().backward()
    assert torch.isfinite(wave.grad).all()


def test_silence_lies_at_the_floor():
    mel = log_mel(torch.zeros(1, 4096), DEFAULT)
    torch.testing.assert_close(mel, torch.full_like(mel, float(np.log(1e-5))))


@CONFIGS
@pytest.mark.parametrize("extra", [0, 1, 255])
def test_frames_and_samples_belong_together(config, extra):
    samples = 20 * config.hop_length + extra
    frames = log_mel(torch.zeros(1, samples), config).shape[-1]
    assert frames == frames_for(samples, config)
    assert samples_for(frames, config) == 20 * config.hop_length
    assert frames_for(samples_for(frames, config), config) == frames


def test_a_batch_is_each_clip_alone():
    waves = torch.from_numpy(np.stack([chirp(22050), 0.1 * chirp(22050)[::-1]]))
    together = log_mel(waves, DEFAULT)
    for wave, mel in zip(waves, together, strict=True):
        torch.testing.assert_close(log_mel(wave.unsqueeze(0), DEFAULT)[0], mel)


def test_a_clip_shorter_than_the_window_has_a_mel():
    for config in (DEFAULT, VOCOS):
        mel = log_mel(torch.from_numpy(chirp(22050)[:300]).unsqueeze(0), config)
        assert mel.shape == (1, config.n_mels, frames_for(300, config))
        assert torch.isfinite(mel).all()


def test_autocast_does_not_change_the_mel():
    wave = torch.from_numpy(chirp(22050)).unsqueeze(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel = log_mel(wave, DEFAULT)
    assert mel.dtype == torch.float32
    torch.testing.assert_close(mel, log_mel(wave, DEFAULT))


@pytest.mark.parametrize(("name", "rate", "options", "tolerance"), [
    ("a.wav", 22050, {}, 1e-3), ("a.wav", 22050, {"subtype": "FLOAT"}, 1e-7), ("a.flac", 22050, {}, 1e-3),
    ("a.ogg", 22050, {}, 0.1), ("a.opus", 48000, {"format": "OGG", "subtype": "OPUS"}, 0.1),
    ("a.mp3", 22050, {}, 0.1), ("a.wav", 48000, {}, 0.02), ("a.wav", 44100, {}, 0.02),
])
def test_every_format_and_rate_is_read(name, rate, options, tolerance, tmp_path):
    soundfile.write(tmp_path / name, chirp(rate), rate, **options)
    samples = load_audio(tmp_path / name, 22050)
    assert samples.dtype == torch.float32
    assert len(samples) == pytest.approx(22050, abs=2)
    expected = chirp(22050)[: len(samples)]
    # noise differs from rate to rate
    error = np.sqrt(np.mean((samples.numpy()[: len(expected)] - expected) ** 2) / np.mean(expected**2))
    assert error < tolerance


def test_channels_are_averaged(tmp_path):
    left, right = chirp(22050), 0.2 * chirp(22050)[::-1]
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 22050, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav", 22050), (left + right) / 2, atol=1e-6)


def test_telephone_speech_keeps_its_pitch_and_length(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.sin(2 * np.pi * 440 * np.arange(8000) / 8000), 8000)
    samples = load_audio(tmp_path / "a.wav", 22050).numpy()
    assert len(samples) == 22050
    assert np.argmax(np.abs(np.fft.rfft(samples))) == 440


def test_a_part_of_a_clip_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", chirp(22050), 22050, subtype="FLOAT")
    part = load_audio(tmp_path / "a.wav", 22050, start=0.5, seconds=0.1)
    np.testing.assert_allclose(part, chirp(22050)[11025: 11025 + 2205], atol=1e-6)
    assert len(load_audio(tmp_path / "a.wav", 22050, start=0.9)) == 2205
    with pytest.raises(ValueError, match=r"a.wav: holds no samples"):
        load_audio(tmp_path / "a.wav", 22050, start=2.0)


def test_defective_files_are_named(tmp_path):
    whole = tmp_path / "whole.flac"
    soundfile.write(whole, chirp(22050), 22050)
    (tmp_path / "cut.flac").write_bytes(whole.read_bytes()[:10_000])
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.ogg").write_text("no audio")
    soundfile.write(tmp_path / "header.wav", np.zeros(0), 22050)
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        soundfile.write(tmp_path / name, np.array([0.0, value], np.float32), 22050, subtype="FLOAT")
    reasons = {
        "missing.wav": "no such file", "cut.flac": "not readable as audio", "empty.wav": "not readable as audio",
        "text.ogg": "not readable as audio", "header.wav": "holds no samples", "nan.wav": "NaN or infinite",
        "inf.wav": "NaN or infinite",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=rf"{name}: .*{reason}" if reason[0] == "N" else f"{name}: {reason}"):
            load_audio(tmp_path / name, 22050)


@pytest.mark.parametrize("suffix", ["wav", "ogg", "mp3"])
def test_a_truncated_file_is_refused(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, chirp(22050, seconds=3.0), 22050)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(TruncatedAudio, match=rf"a\.{suffix}: truncated; copy or export it again"):
        load_audio(path, 22050)
    if suffix != "mp3":  # its frames have to be read
        with pytest.raises(TruncatedAudio):
            audio_seconds(path)
        with pytest.raises(TruncatedAudio):
            load_audio(path, 22050, start=0.0, seconds=0.1)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_parts_of_whole_files_are_never_taken_for_truncated(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, chirp(22050), 22050)
    assert audio_seconds(path) == pytest.approx(1.0, abs=1e-3)
    for start in (0.0, 0.31, 0.77, 0.99):
        part = load_audio(path, 22050, start=start, seconds=0.5)
        assert len(part) == pytest.approx(22050 * min(0.5, 1 - start), abs=1)


def test_a_header_without_a_length_is_refused(tmp_path):
    path = tmp_path / "stream.flac"
    soundfile.write(path, chirp(22050), 22050)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO's number of samples, 36 bits
    data[22:26] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"stream\.flac: its header does not say how long it is"):
        load_audio(path, 22050)


def test_an_upload_is_checked_before_it_is_decoded(tmp_path, monkeypatch):
    def written(name: str, samples: np.ndarray, rate: int = 22050, **options) -> Path:
        soundfile.write(tmp_path / name, samples, rate, **options)
        return tmp_path / name

    for name in ("a.wav", "a.flac", "a.ogg", "a.mp3"):
        assert check_upload(written(name, chirp(22050, 2.0))) == pytest.approx(2.0, abs=0.1)
    (tmp_path / "no_suffix").write_bytes((tmp_path / "a.flac").read_bytes())
    assert check_upload(tmp_path / "no_suffix", max_seconds=2.0) == 2.0
    (tmp_path / "a.raw").write_bytes((tmp_path / "a.wav").read_bytes())
    (tmp_path / "text.wav").write_text("no audio")
    cut = tmp_path / "cut.mp3"
    cut.write_bytes((tmp_path / "a.mp3").read_bytes()[:-8000])
    lying = bytearray((tmp_path / "a.wav").read_bytes())
    lying[40:44] = (0x7FFFFFF0).to_bytes(4, "little")
    (tmp_path / "lying.wav").write_bytes(lying)
    refused = {
        "a.raw: samples without a header": tmp_path / "a.raw", "text.wav: not readable as audio": tmp_path / "text.wav",
        "gone.wav: no such file": tmp_path / "gone.wav", "cut.mp3: truncated": cut,
        "lying.wav: truncated": tmp_path / "lying.wav", "nan.wav: holds NaN":
            written("nan.wav", np.array([0.0, np.nan], np.float32), subtype="FLOAT"),
        "slow.wav: 4000 samples a second": written("slow.wav", chirp(4000), 4000),
        "many.wav: 3 channels": written("many.wav", np.zeros((100, 3))),
    }
    for message, path in refused.items():
        with pytest.raises(ValueError, match=message):
            check_upload(path)
    # two hours of silence in few bytes, and a file that is too large, are never decoded
    hours = written("hours.flac", np.zeros(8000 * 7200, np.int16), 8000)
    assert hours.stat().st_size < 10 * 2**20
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"hours\.flac: 7200\.0 s are too long, at most 60 s are read"):
        check_upload(hours)
    with pytest.raises(ValueError, match=r"a\.wav: 0\.1 MB are too many, at most 0\.0 MB are read"):
        check_upload(tmp_path / "a.wav", max_bytes=1000)


def test_audio_that_cannot_be_saved_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(ValueError, match=r"a\.wav: cannot be written .*; free disk space or mend the rights"):
        save_audio(tmp_path / "folder" / "a.wav", torch.zeros(100), 22050)
    with pytest.raises(ValueError, match=r"a\.xyz: cannot write \.xyz; use \.wav, \.flac, \.ogg or \.mp3"):
        save_audio(tmp_path / "a.xyz", torch.zeros(100), 22050)
    save_audio(tmp_path / "a.wav", torch.ones(100) / 2, 22050)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(ValueError, match="No space left"):
        save_audio(tmp_path / "a.wav", torch.zeros(100), 22050)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "a.wav"}
    assert load_audio(tmp_path / "a.wav", 22050).max() > 0.4


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_saved_audio_is_16_bit_and_never_clipped(suffix, tmp_path):
    path = tmp_path / f"new/a.{suffix}"
    wave = torch.from_numpy(chirp(22050))
    save_audio(path, wave, 22050)
    assert soundfile.info(path).subtype == "PCM_16"
    torch.testing.assert_close(load_audio(path, 22050), wave, atol=2**-15, rtol=0)
    save_audio(path, 4 * wave, 22050)
    torch.testing.assert_close(load_audio(path, 22050), wave / wave.abs().max(), atol=2**-14, rtol=0)


@CONFIGS
def test_griffin_lim_gives_a_wave_with_this_mel(config):
    wave = torch.from_numpy(chirp(config.sample_rate, 0.5)).unsqueeze(0)
    wave = wave[:, : samples_for(frames_for(wave.shape[-1], config), config)]
    mel = log_mel(wave, config)
    rebuilt = griffin_lim(mel, config)
    again = log_mel(rebuilt, config)
    assert rebuilt.shape == wave.shape
    frames = slice(4, -4)
    error = (again - mel)[..., frames].abs().mean()
    noise = (log_mel(torch.randn(wave.shape, generator=torch.Generator().manual_seed(0)), config) - mel)
    assert error < 0.3
    assert error < 0.2 * noise[..., frames].abs().mean()
    torch.testing.assert_close(griffin_lim(mel, config), rebuilt)


def test_headers_that_lie(tmp_path):
    wave = 0.3 * np.sin(np.arange(24_000) / 20)
    path = tmp_path / "lies.flac"
    soundfile.write(path, wave, 24_000)
    content = bytearray(path.read_bytes())
    content[21:26] = bytes([content[21] | 0x0F]) + b"\xff" * 4  # STREAMINFO's number of samples: 2 ** 36 - 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"lies\.flac: (truncated|not readable)"):  # not a MemoryError for 256 GiB
        load_audio(path, 22050)
    for rate in (1, 2**31 - 1):
        soundfile.write(tmp_path / "rate.wav", wave, rate)
        for read in (audio_seconds, audio_rate, lambda path: load_audio(path, 22050)):
            with pytest.raises(ValueError, match=rf"rate.wav: {rate} samples a second, which is no rate of speech"):
                read(tmp_path / "rate.wav")
    soundfile.write(tmp_path / "loud.wav", 32767 * wave, 24_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"loud.wav: its samples reach 98\d\d\.?\d*, where 1 is full scale"):
        load_audio(tmp_path / "loud.wav", 22050)
    soundfile.write(tmp_path / "wide.wav", np.stack([wave[:9000]] * 1000, 1), 22050, subtype="FLOAT")
    assert torch.allclose(load_audio(tmp_path / "wide.wav", 22050), torch.from_numpy(wave[:9000]).float(), atol=1e-6)
    with pytest.raises(ValueError, match="no such file"):
        load_audio(tmp_path / ("a" * 300), 22050)
    with pytest.raises(ValueError, match="half a surrogate pair"):
        load_audio(tmp_path / "\ud800.wav", 22050)
