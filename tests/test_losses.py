import librosa
import numpy as np
import pytest
import torch

from losses import (
    adversarial_loss_discriminator,
    adversarial_loss_generator,
    feature_matching_loss,
    mel_l1,
    multi_resolution_stft_loss,
    subband_stft_loss,
    weighted_sum,
)


def waves() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4096, generator=generator), 0.3 * torch.randn(2, 4096, generator=generator)


def test_mel_l1_with_mask_ignores_padding():
    a, b = torch.randn(2, 80, 10), torch.randn(2, 80, 10)
    mask = torch.ones(2, 1, 10)
    torch.testing.assert_close(mel_l1(a, b), (a - b).abs().mean())
    torch.testing.assert_close(mel_l1(a, b, mask), mel_l1(a, b))
    mask[0, :, 4:] = 0
    expected = ((a[0, :, :4] - b[0, :, :4]).abs().sum() + (a[1] - b[1]).abs().sum()) / (14 * 80)
    torch.testing.assert_close(mel_l1(a, b, mask), expected)
    assert mel_l1(a, b, torch.zeros(2, 1, 10)) == 0


def test_adversarial_losses():
    real = [torch.tensor([[0.5, 2.0]]), torch.tensor([[1.0]])]
    fake = [torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0]])]
    assert adversarial_loss_generator(fake).item() == pytest.approx((1 + 0) / 2 + 4)
    assert adversarial_loss_discriminator(real, fake).item() == pytest.approx((0.25 + 1) / 2 + (0 + 1) / 2 + 0 + 9)


def test_feature_matching_trains_the_generator_alone():
    real, fake = torch.zeros(1, 4, requires_grad=True), torch.full((1, 4), 2.0, requires_grad=True)
    loss = feature_matching_loss([[real, real], [real]], [[fake, fake], [fake]])
    assert loss.item() == 6
    loss.backward()
    assert real.grad is None
    torch.testing.assert_close(fake.grad, torch.full((1, 4), 0.75))


def test_stft_loss_equals_librosa():
    fake, real = waves()
    resolutions = ((1024, 120, 600), (512, 50, 240))
    expected = 0.0
    for n_fft, hop_length, win_length in resolutions:
        f, r = (
            np.abs(librosa.stft(
                wave.double().numpy(), n_fft=n_fft, hop_length=hop_length, win_length=win_length, pad_mode="reflect"
            ))
            for wave in (fake, real)
        )
        expected += np.linalg.norm(r - f) / np.linalg.norm(r) + np.abs(np.log(r) - np.log(f)).mean()
    assert multi_resolution_stft_loss(fake, real, resolutions).item() == pytest.approx(expected / 2, rel=1e-3)


def test_stft_loss_is_zero_for_equal_waves_and_finite_for_silence():
    fake, real = waves()
    assert multi_resolution_stft_loss(real, real) == 0
    silence = torch.zeros_like(real, requires_grad=True)
    loss = multi_resolution_stft_loss(silence, real) + multi_resolution_stft_loss(fake, torch.zeros_like(real))
    loss.backward()
    assert loss.isfinite()
    assert silence.grad.isfinite().all()


def test_subband_stft_loss_falls_towards_the_target():
    real = torch.randn(2, 4, 512)
    noise = torch.randn(2, 4, 512)
    losses = [subband_stft_loss(real + scale * noise, real).item() for scale in (1.0, 0.3, 0.1, 0.0)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0


def test_stft_loss_says_which_segments_are_too_short():
    with pytest.raises(ValueError, match=r"1024 samples.*needs 1025.*segment_frames"):
        multi_resolution_stft_loss(torch.zeros(1, 1024), torch.zeros(1, 1024))


def test_weighted_sum():
    losses = {"mel": torch.tensor(2.0), "adversarial": torch.tensor(3.0)}
    assert weighted_sum(losses, {"adversarial": 0.5, "mel": 45.0}).item() == 91.5
    with pytest.raises(ValueError, match=r"without a loss: \['stft'\].*without a weight: \['mel'\]"):
        weighted_sum(losses, {"adversarial": 1.0, "stft": 1.0})
