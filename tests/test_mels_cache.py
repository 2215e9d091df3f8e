"""What is written is what is read, and what does not fit is refused."""

from pathlib import Path

import numpy as np
import pytest

from config import AudioConfig
from mels_cache import load_mels, write_mels

AUDIO = AudioConfig()
MELS = [(Path(f"{name}.wav"), np.arange(80 * frames, dtype=np.float32).reshape(frames, 80) / 16)
        for name, frames in (("a", 3), ("b", 1), ("c", 5))]


def test_there_and_back(tmp_path):
    folder = tmp_path / "mels"
    for _ in range(2):  # the second time over the first
        assert write_mels(folder, iter(MELS), AUDIO, {"step": 7}) == 3
    read = load_mels(folder, [Path("c.wav"), Path("a.wav")], AUDIO)
    for mel, (_, expected) in zip(read, (MELS[2], MELS[0]), strict=True):
        assert np.array_equal(mel, expected.astype(np.float16))
        assert isinstance(mel, np.memmap)
    assert not list(tmp_path.glob("*.tmp"))


def test_what_does_not_fit_is_refused(tmp_path):
    folder = tmp_path / "mels"
    with pytest.raises(ValueError, match="no mels; make them"):
        load_mels(folder, [], AUDIO)
    write_mels(folder, MELS, AUDIO, {})
    with pytest.raises(ValueError, match=r"1 of 2 clips have no mel, first d\.wav"):
        load_mels(folder, [Path("a.wav"), Path("d.wav")], AUDIO)
    with pytest.raises(ValueError, match="another audio section"):
        load_mels(folder, [Path("a.wav")], AudioConfig(n_mels=100))
    (folder / "frames.npy").write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged"):
        load_mels(folder, [Path("a.wav")], AUDIO)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(ValueError, match="holds no mels"):
        write_mels(other, MELS, AUDIO, {})
    with pytest.raises(ValueError, match="no clip"):
        write_mels(tmp_path / "empty", [], AUDIO, {})
