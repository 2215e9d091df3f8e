"""What is sent of a file while it is made, decoded again."""

import io

import numpy as np
import pytest
import soundfile
import soxr
import torch

from serving.encoding import FORMATS, OPENAI_RATE, SentBytes

RATE = 22050


def sent(name: str, samples: torch.Tensor, chunk: int = 5000) -> list[bytes]:
    encoder = FORMATS[name].encoder(RATE)
    return [*(encoder.encode(part) for part in samples.split(chunk)), encoder.end()]


def tone(seconds: float, scale: float = 0.4) -> torch.Tensor:
    return scale * torch.sin(torch.arange(round(seconds * RATE)) * 0.1)


@pytest.mark.parametrize(("name", "rate", "extra"), [
    ("wav", RATE, 0), ("flac", RATE, 0), ("mp3", RATE, 0.1), ("opus", OPENAI_RATE, 1e-3)])
def test_files_can_be_read_and_begin_before_they_end(name, rate, extra):
    samples = tone(3)
    parts = sent(name, samples)
    assert sum(map(len, parts[:6])) > 0 or name == "flac"
    heard, found = soundfile.read(io.BytesIO(b"".join(parts)))
    assert found == rate
    assert 3 - 1e-6 <= len(heard) / rate <= 3 + extra + 1e-6
    middle = heard[rate // 2 : rate * 5 // 2]
    assert np.abs(np.fft.rfft(middle)).argmax() == pytest.approx(0.1 / (2 * np.pi) * RATE * 2, abs=1)
    assert np.abs(middle).max() == pytest.approx(0.4, abs=0.02)


def test_samples_are_kept_and_clipped():
    samples = torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    expected = np.round(samples.clamp(-1, 1).numpy() * 32767).astype(np.int16)
    heard, _ = soundfile.read(io.BytesIO(b"".join(sent("wav", samples))), dtype="int16")
    np.testing.assert_array_equal(heard, expected)
    heard, _ = soundfile.read(io.BytesIO(b"".join(sent("flac", samples))), dtype="int16")
    assert np.abs(heard.astype(int) - expected).max() <= 1
    whole = soxr.resample(samples.numpy(), RATE, OPENAI_RATE).clip(-1, 1)
    heard = np.frombuffer(b"".join(sent("pcm", samples, 777)), "<i2") / 32767
    np.testing.assert_allclose(heard, whole, atol=2e-4)


def test_what_was_sent_is_not_changed_any_more():
    file = SentBytes()
    file.write(b"head....")
    assert file.take() == b"head...."
    file.write(b"body")
    file.seek(4)
    file.write(b"SIZEnew")  # the header, sent; then three bytes that are not
    assert (file.tell(), file.seek(0, 2)) == (11, 12)
    file.write(b"!")
    assert file.take() == b"newy!"
    assert file.take() == b""
