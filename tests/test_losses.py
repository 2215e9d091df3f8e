import itertools

import librosa
import numpy as np
import pytest
import torch

from losses import (
    adversarial_loss_discriminator,
    adversarial_loss_generator,
    codec_losses,
    discriminator_loss,
    duration_loss,
    f0_cross_entropy,
    feature_matching_loss,
    generator_losses,
    mel_l1,
    multi_resolution_stft_loss,
    reconstruction_losses,
    subband_stft_loss,
    symbol_ctc,
    symbols_fit,
    token_cross_entropy,
    weighted_sum,
)
from mel_processing import AudioConfig, log_mel


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


def test_token_cross_entropy_leaves_out_what_is_not_to_be_predicted():
    logits, targets = torch.randn(2, 3, 4, 5), torch.randint(5, (2, 3, 4))
    targets[0, :, 2:] = -100
    log_p = logits.log_softmax(-1)
    places = (targets != -100).nonzero().tolist()
    expected = -sum(log_p[b, k, s, targets[b, k, s]] for b, k, s in places) / len(places)
    torch.testing.assert_close(token_cross_entropy(logits, targets), expected)
    assert token_cross_entropy(logits.half(), targets).dtype == torch.float32
    assert token_cross_entropy(logits, torch.full_like(targets, -100)) == 0


def test_codec_losses_ignore_a_constant_offset_in_time_alone():
    mel = torch.randn(2, 80, 10)
    losses = codec_losses(mel + 0.5, mel)
    assert losses["mel"].item() == pytest.approx(0.5)
    assert losses["mel_delta"].item() == pytest.approx(0, abs=1e-6)


def test_codec_losses_with_mask_are_those_of_the_frames_in_it():
    rebuilt, mel = torch.randn(2, 80, 10), torch.randn(2, 80, 10)
    mask = torch.arange(10).view(1, 1, -1) < torch.tensor([10, 6]).view(2, 1, 1)
    losses = codec_losses(rebuilt, mel, mask)
    first, second = codec_losses(rebuilt[:1], mel[:1]), codec_losses(rebuilt[1:, :, :6], mel[1:, :, :6])
    torch.testing.assert_close(losses["mel"], (10 * first["mel"] + 6 * second["mel"]) / 16)
    torch.testing.assert_close(losses["mel_delta"], (9 * first["mel_delta"] + 5 * second["mel_delta"]) / 14)


def collapse(path: tuple[int, ...]) -> list[int]:
    """What a path of predictions spells: repeats are one, 0 is nothing."""
    return [symbol for symbol, _ in itertools.groupby(path) if symbol]


def test_symbol_ctc_is_the_probability_of_all_paths_that_spell_the_symbols():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    texts, lengths = [[1, 2, 2], [2]], [5, 4]
    expected = []
    for log_p, text, length in zip(logits.log_softmax(-1), texts, lengths, strict=True):
        paths = itertools.product(range(3), repeat=length)
        scores = [sum(log_p[t, s] for t, s in enumerate(path)) for path in paths if collapse(path) == text]
        expected.append(-torch.logsumexp(torch.stack(scores), 0) / len(text))
    symbols = torch.tensor([[1, 2, 2], [2, 0, 0]])
    loss = symbol_ctc(logits, torch.tensor(lengths), symbols, torch.tensor([3, 1]))
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    short = symbol_ctc(logits, torch.tensor([3, 4]), symbols, torch.tensor([3, 1]))  # no room for the blank of 2, 2
    torch.testing.assert_close(short, expected[1])
    nothing = symbol_ctc(logits.requires_grad_(), torch.tensor([3, 0]), symbols, torch.tensor([3, 1]))
    nothing.backward()
    assert nothing == 0
    assert not logits.grad.any()


def test_symbols_fit_counts_a_blank_between_equals():
    symbols = torch.tensor([[1, 2, 3], [1, 1, 1], [4, 4, 0]])
    lengths = torch.tensor([3, 3, 2])
    for predictions, fitting in ((5, [True, True, True]), (4, [True, False, True]), (3, [True, False, True]),
                                 (2, [False, False, False])):
        assert symbols_fit(torch.full((3,), predictions), symbols, lengths).tolist() == fitting


def test_reconstruction_losses_are_those_of_what_is_there():
    fake, real = waves()
    audio = AudioConfig()
    mel = log_mel(real, audio)
    losses = reconstruction_losses(fake, real, mel, audio)
    assert losses.keys() == {"mel", "stft"}
    torch.testing.assert_close(losses["mel"], mel_l1(log_mel(fake, audio), mel))
    torch.testing.assert_close(losses["stft"], multi_resolution_stft_loss(fake, real))
    bands_fake, bands_real = fake.view(2, 4, -1), real.view(2, 4, -1)
    losses = reconstruction_losses(fake, real, mel, audio, fake_subbands=bands_fake, real_subbands=bands_real)
    assert losses.keys() == {"mel", "stft", "subband_stft"}
    torch.testing.assert_close(losses["subband_stft"], subband_stft_loss(bands_fake, bands_real))


def test_each_side_of_the_adversarial_game_trains_itself():
    weight = torch.ones((), requires_grad=True)

    def discriminator(wave):
        return [wave * weight], [[wave * weight]]

    fake, real = waves()
    fake.requires_grad_(True)
    discriminator_loss(discriminator, fake, real).backward()
    assert fake.grad is None
    assert weight.grad != 0
    losses = generator_losses(discriminator, fake, real)
    torch.testing.assert_close(losses["adversarial"], (1 - fake).square().mean())
    torch.testing.assert_close(losses["feature_matching"], (real - fake).abs().mean())
    sum(losses.values()).backward()
    assert fake.grad.abs().sum() > 0


def test_the_best_duration_is_the_mean():
    durations = torch.tensor([0.0, 3.0, 4.0, 20.0])
    log_duration = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_duration], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = duration_loss(log_duration.expand(4), durations).mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert log_duration.expm1().item() == pytest.approx(durations.mean().item(), rel=1e-3)
    assert duration_loss(durations.log1p(), durations).abs().max() < 1e-5


def test_f0_cross_entropy_is_torchs():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 5, 7), torch.rand(2, 5, 7).softmax(-1)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))
    torch.testing.assert_close(f0_cross_entropy(logits, targets), expected)
