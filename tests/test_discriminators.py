import pytest
import torch

from config import DiscriminatorConfig
from losses import adversarial_loss_discriminator, adversarial_loss_generator, feature_matching_loss
from models.discriminators import MelPatchDiscriminator, PeriodDiscriminator, build_discriminators

SMALL = DiscriminatorConfig(period_channels=[8, 16, 16], fft_sizes=[512, 256], resolution_channels=4)


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (DiscriminatorConfig(fft_sizes=[]), 41.1),
        (DiscriminatorConfig(), 41.3),
        (DiscriminatorConfig(fft_sizes=[], period_channels=[8, 32, 128, 256, 256]), 2.6),
        (SMALL, None),
    ],
)
def test_outputs_and_features(config, millions):
    discriminators = build_discriminators(config)
    with torch.no_grad():
        outputs, features = discriminators(torch.randn(2, 2048))
    n_parts = len(config.periods) + len(config.fft_sizes)
    assert len(outputs) == len(features) == n_parts
    for logits, maps in zip(outputs, features, strict=True):
        assert logits.shape == (2, maps[-1][0].numel())
        assert all(m.isfinite().all() for m in maps)
    layers = [len(config.period_channels) + 1] * len(config.periods) + [6] * len(config.fft_sizes)
    assert [len(maps) for maps in features] == layers
    if millions:
        assert sum(p.numel() for p in discriminators.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_period_discriminator_keeps_phases_apart():
    torch.manual_seed(0)
    part = PeriodDiscriminator(3, [4, 4])
    wave = torch.randn(1, 300)
    changed = wave.clone()
    changed[:, 1::3] += 1
    different = (part(wave)[-1] != part(changed)[-1])[0, 0].any(dim=0)
    assert different.tolist() == [False, True, False]


def test_gradients_reach_every_parameter_and_the_wave():
    torch.manual_seed(0)
    discriminators = build_discriminators(SMALL)
    fake = torch.randn(2, 2048, requires_grad=True)
    real_outputs, real_features = discriminators(torch.randn(2, 2048))
    fake_outputs, fake_features = discriminators(fake)
    adversarial_loss_discriminator(real_outputs, fake_outputs).backward(retain_graph=True)
    still = [n for n, p in discriminators.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    fake.grad = None
    (adversarial_loss_generator(fake_outputs) + feature_matching_loss(real_features, fake_features)).backward()
    assert fake.grad.isfinite().all()
    assert (fake.grad != 0).any(dim=0).all()


def test_learns_to_tell_noise_from_a_tone():
    torch.manual_seed(0)
    discriminators = build_discriminators(SMALL)
    optimizer = torch.optim.AdamW(discriminators.parameters(), lr=2e-3, betas=(0.8, 0.99))
    tone = torch.sin(0.1 * torch.arange(2048)).repeat(2, 1)
    losses = []
    for _ in range(30):
        loss = adversarial_loss_discriminator(discriminators(tone)[0], discriminators(torch.randn(2, 2048))[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_autocast_stays_finite():
    with torch.autocast("cpu", torch.bfloat16):
        outputs, _ = build_discriminators(SMALL)(torch.randn(2, 2048))
    assert all(logits.isfinite().all() for logits in outputs)


def test_no_discriminator_at_all_is_refused():
    with pytest.raises(ValueError, match="periods"):
        build_discriminators(DiscriminatorConfig(periods=[], fft_sizes=[]))


def test_mel_patches_are_judged_by_what_is_near():
    torch.manual_seed(0)
    discriminator, mel = MelPatchDiscriminator([4, 8]), torch.randn(2, 80, 64)
    (logits,), (maps,) = discriminator(mel)
    assert [tuple(m.shape) for m in maps] == [(2, 4, 40, 32), (2, 8, 20, 16), (2, 1, 20, 16)]
    assert logits.shape == (2, 20 * 16)
    changed = mel.clone()
    changed[:, :8, :8] += 1
    moved = (discriminator(changed)[1][0][-1] - maps[-1]).abs().sum((0, 1)) > 0
    assert moved[0, 0]
    assert not moved[6:].any()
    assert not moved[:, 6:].any()
