"""Recordings: wav, flac, ogg and mp3 files with damaged and lying headers."""

import io
import struct

import numpy as np
import pytest
import soundfile
from fuzzing import damaged, tried
from hypothesis import example, given
from hypothesis import strategies as st

from config import AudioConfig, DataConfig
from data_utils import Clip, clips_of_length
from mel_processing import audio_format, audio_rate, audio_seconds, check_upload, load_audio, log_mel
from preprocessing.clips import Options, process
from preprocessing.recordings import Recording

WAVE = 0.3 * np.sin(np.arange(12_000) / 20)
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III", "aiff": "PCM_24", "au": "FLOAT",
           "caf": "ALAC_16", "w64": "PCM_16", "rf64": "PCM_16", "opus": "OPUS"}


def encoded(kind: str, subtype: str, channels: int = 1, rate: int = 24_000) -> bytes:
    file = io.BytesIO()
    wave = np.stack([WAVE] * channels, 1)
    soundfile.write(file, wave, rate, format="ogg" if kind == "opus" else kind, subtype=subtype)
    return file.getvalue()


WHOLE = {kind: encoded(kind, subtype) for kind, subtype in FORMATS.items()}


@st.composite
def wav_files(draw: st.DrawFn) -> bytes:
    """A wav file whose header says anything."""
    numbers = st.sampled_from([0, 1, 2, 8, 16, 24, 32, 1000, 22050, 65535, 2**31, 2**32 - 1])
    tag, channels, bits = (draw(numbers | st.integers(0, 65535)) % 65536 for _ in range(3))
    tag = draw(st.sampled_from([1, 3, 6, 7, 0xFFFE, tag]))
    channels, bits = draw(st.sampled_from([1, 2, channels])), draw(st.sampled_from([16, 32, bits]))
    rate, data_size, riff_size = draw(numbers), draw(numbers), draw(numbers)
    kind = np.float32 if bits == 32 else np.int16
    data = (WAVE[: draw(st.integers(0, 3000))] * (1 if bits == 32 else 32767)).astype(kind)
    if len(data) and draw(st.booleans()):
        odd = draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38, 1e-45])) if bits == 32 else 0
        data[draw(st.integers(0, len(data) - 1))] = odd
    block = channels * bits // 8 % 65536
    content = b"fmt " + struct.pack("<IHHIIHH", 16, tag, channels, rate, rate * block % 2**32, block, bits)
    content += b"data" + struct.pack("<I", draw(st.sampled_from([data.nbytes, data_size]))) + data.tobytes()
    return b"RIFF" + struct.pack("<I", draw(st.sampled_from([len(content) + 4, riff_size]))) + b"WAVE" + content


@st.composite
def recordings(draw: st.DrawFn) -> tuple[str, bytes]:
    """Suffix and content."""
    kind = draw(st.sampled_from(sorted(WHOLE)))
    whole = WHOLE[kind]
    end = draw(st.sampled_from([120, len(whole)]))  # most of what can be wrong is in the header
    content = draw(damaged(whole[:end])) + whole[end:]
    return draw(st.sampled_from([kind, kind, "wav", "raw", "txt"])), content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("audio")


def check(path) -> None:
    """What is read is sound, and so is all that is made of it."""
    seconds = tried(audio_seconds, path, names=path)
    wave = tried(load_audio, path, 22050, names=path)
    tried(audio_rate, path, names=path)
    tried(check_upload, path, names=path)
    if wave is not None:
        assert seconds is not None
        assert wave.ndim == 1
        assert wave.isfinite().all()
        assert len(wave)
        if len(wave) >= 256:
            assert log_mel(wave[None, : 22050 * 3], AudioConfig()).isfinite().all()
        if len(wave) < 22050 * 3:
            part = tried(load_audio, path, 22050, min(0.1, seconds), 0.05, names=path)
            assert part is None or part.isfinite().all()
            outcome = process(Recording("a", path, "", "ella", "de"), "", Options(), path.parent / "clips")
            assert len(outcome.clips) + len(outcome.rejected) >= 1
    tried(clips_of_length, [Clip(path, "a")], DataConfig(training_filelist="a", validation_filelist="b"), "a.txt",
          names=path if seconds is None else "a.txt")


@given(file=recordings())
def test_damaged(folder, file):
    suffix, content = file
    path = folder / f"damaged.{suffix}"
    path.write_bytes(content)
    check(path)


@given(content=wav_files())
def test_headers(folder, content):
    path = folder / "lies.wav"
    path.write_bytes(content)
    check(path)


@pytest.mark.parametrize("content", [
    encoded("wav", "FLOAT", channels=1000), encoded("wav", "PCM_U8", rate=1), encoded("wav", "PCM_16", rate=2**31 - 1),
    encoded("flac", "PCM_16", channels=8, rate=655_350), b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"\0" * 5000,
], ids=["1000 channels", "1 Hz", "2 GHz", "8 channels", "nothing", "RIFF", "fLaC", "OggS", "ID3", "zeros"])
def test_oddities(folder, content):
    path = folder / "odd.wav"
    path.write_bytes(content)
    check(path)


@given(name=st.text(max_size=10) | st.sampled_from([
    "a\0b.wav", "\ud800.wav", "nowhere/a.wav", "a" * 300 + ".wav", ".", "..", "a.wav/",
]))
@example(name="")
def test_paths(folder, name):
    path = f"{folder}/{name}"
    tried(load_audio, path, 22050)
    tried(audio_seconds, path)
    tried(audio_format, path)


def test_a_folder_is_no_recording(folder):
    tried(load_audio, folder, 22050, names=folder)
