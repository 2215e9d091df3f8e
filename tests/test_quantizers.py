"""Residual VQ against brute force, its restarts step by step, and Gaussian latents against torch.distributions."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from models.layers.gaussian import LOGVAR_BOUND, Gaussian, gaussian_kl
from models.layers.rvq import RVQ

SIZE, DIMENSIONS = 6, 3


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def started(n_codebooks: int = 3, seed: int = 0, **settings) -> RVQ:
    """After its first training batch."""
    torch.manual_seed(seed)
    rvq = RVQ(n_codebooks, SIZE, DIMENSIONS, **settings)
    rvq(vectors(4, DIMENSIONS, 25))
    return rvq


def state(rvq: RVQ, k: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """embedding (SIZE, DIMENSIONS), average (SIZE, DIMENSIONS) and count (SIZE,) of codebook k, as stored."""
    prefix = f"residual.layers.{k}._codebook."
    weights = rvq.state_dict()
    return tuple(weights[prefix + name][0].clone() for name in ("embed", "embed_avg", "cluster_size"))


def set_code(rvq: RVQ, code: int, vector: torch.Tensor, count: float) -> None:
    """Overwrites one code of the first codebook, all of it."""
    weights = rvq.state_dict()
    for name, value in (("embed", vector), ("embed_avg", vector * count), ("cluster_size", torch.tensor(count))):
        weights[f"residual.layers.0._codebook.{name}"][0, code] = value
    rvq.load_state_dict(weights)


# --- residual vector quantisation -----------------------------------------------------------------------------------


def test_codes_are_the_nearest_of_each_residual():
    rvq = started().eval()
    z = 2 * vectors(2, DIMENSIONS, 40, seed=1)
    latents, codes, losses = rvq(z)
    assert losses == {}
    assert codes.shape == (2, 3, 40)
    for b in range(2):
        for t in range(40):
            residual = z[b, :, t]
            for k in range(3):
                embedding = state(rvq, k)[0]
                distances = [(residual - row).square().sum().item() for row in embedding]
                assert codes[b, k, t] == distances.index(min(distances))
                residual = residual - embedding[codes[b, k, t]]
            torch.testing.assert_close(latents[b, :, t], z[b, :, t] - residual)
    torch.testing.assert_close(rvq.dequantise(codes), latents)
    assert len(set(codes.flatten().tolist())) == SIZE


def test_training_moves_the_codebooks_by_their_moving_averages():
    rvq = started(1, decay=0.9, restart_share=0.0)
    z = vectors(3, DIMENSIONS, 20, seed=1)
    embedding, average, count = state(rvq)
    frames = z.transpose(1, 2).reshape(-1, DIMENSIONS)
    _, codes, losses = rvq(z)
    chosen = torch.nn.functional.one_hot(codes[:, 0].flatten(), SIZE).float()  # (frames, SIZE)
    torch.testing.assert_close(losses["commitment"], (frames - embedding[codes[:, 0].flatten()]).square().mean())
    count = 0.9 * count + 0.1 * chosen.sum(0)
    average = 0.9 * average + 0.1 * chosen.T @ frames
    moved = state(rvq)
    torch.testing.assert_close(moved[1], average)
    torch.testing.assert_close(moved[2], count)
    torch.testing.assert_close(moved[0], average / count.unsqueeze(1), rtol=1e-4, atol=1e-5)  # Laplace's 1e-5


def test_a_dead_code_restarts_embedding_average_and_count_together_and_stays_there():
    rvq = started(1, decay=0.9)
    even_use = 100 / SIZE
    set_code(rvq, 2, torch.full((DIMENSIONS,), 1e3), count=0.09 * even_use)  # nothing is near it; just under a tenth
    z = vectors(4, DIMENSIONS, 25, seed=1)
    frames = z.transpose(1, 2).reshape(-1, DIMENSIONS)
    alive = state(rvq)[0]
    rvq(z)
    embedding, average, count = (part[2] for part in state(rvq))
    place = (frames - embedding).square().sum(1).argmin()
    torch.testing.assert_close(embedding, frames[place])
    torch.testing.assert_close(count, torch.tensor(2 * 0.1 * even_use))
    torch.testing.assert_close(average, embedding * count)
    assert (state(rvq)[0][[0, 1, 3, 4, 5]] - alive[[0, 1, 3, 4, 5]]).abs().max() < 1  # the others only moved on
    # in the next step embedding comes from average and count anew: what was restarted is not undone
    _, codes, _ = rvq(z)
    assert codes[:, 0].flatten()[place] == 2
    won = codes[:, 0].flatten() == 2
    later = state(rvq)
    expected = (0.9 * average + 0.1 * frames[won].sum(0)) / (0.9 * count + 0.1 * won.sum())
    torch.testing.assert_close(later[0][2], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(later[2][2], 0.9 * count + 0.1 * won.sum())


def test_a_code_of_enough_use_is_left_alone():
    rvq = started(1, decay=0.9)
    far = torch.full((DIMENSIONS,), 1e3)
    set_code(rvq, 2, far, count=100.0)
    rvq(vectors(4, DIMENSIONS, 25, seed=1))
    torch.testing.assert_close(state(rvq)[0][2], far, rtol=1e-4, atol=0)
    never = started(1, decay=0.9, restart_share=0.0)
    set_code(never, 2, far, count=1e-3)
    never(vectors(4, DIMENSIONS, 25, seed=1))
    assert state(never)[0][2].max() > 1e2


def test_all_codes_but_one_dead_come_back_to_life():
    rvq = started(1, decay=0.9)
    for code in range(1, SIZE):
        set_code(rvq, code, torch.full((DIMENSIONS,), 1e3 + code), count=0.0)
    z = vectors(4, DIMENSIONS, 25, seed=2)
    for _ in range(20):
        codes = rvq(z).codes
    assert codes.unique().numel() == SIZE


def test_padding_moves_nothing():
    clip = vectors(1, DIMENSIONS, 30)
    padded = torch.cat([clip, 50 * vectors(1, DIMENSIONS, 9, seed=1)], dim=2)
    mask = (torch.arange(39) < 30).view(1, 1, -1)
    alone, batched = RVQ(2, SIZE, DIMENSIONS), RVQ(2, SIZE, DIMENSIONS)
    for step in range(3):
        torch.manual_seed(step)
        first = alone(clip)
        torch.manual_seed(step)
        second = batched(padded, mask)
        assert torch.equal(first.codes, second.codes[:, :, :30])
        torch.testing.assert_close(first.losses, second.losses)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(batched.state_dict()[name], value)


def test_the_gradient_passes_straight_through_the_sum():
    rvq = started()
    z = vectors(2, DIMENSIONS, 5).requires_grad_()
    weights = vectors(2, DIMENSIONS, 5, seed=3)
    output = rvq(z)
    (output.latents * weights).sum().backward(retain_graph=True)
    torch.testing.assert_close(z.grad, weights)
    z.grad = None
    output.losses["commitment"].backward()
    assert z.grad.abs().sum() > 0


def test_validation_before_the_first_step_starts_nothing():
    rvq = RVQ(2, SIZE, DIMENSIONS).eval()
    latents, codes, losses = rvq(vectors(1, DIMENSIONS, 10))
    assert not latents.any()
    assert not codes.any()
    assert not any(rvq.state_dict()[f"residual.layers.{k}._codebook.initted"] for k in range(2))
    rvq.train()(vectors(4, DIMENSIONS, 25))
    before = {name: value.clone() for name, value in rvq.state_dict().items()}
    assert rvq.eval()(vectors(1, DIMENSIONS, 10)).codes.any()
    assert all(torch.equal(rvq.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("dropout", [False, True])
def test_state_dict_and_torchs_random_state_are_all_it_goes_on_from(dropout):
    def run(rvq: RVQ, steps: range) -> RVQ:
        for step in steps:
            rvq(vectors(2, DIMENSIONS, 8, seed=step))
        return rvq

    def fresh() -> RVQ:
        return RVQ(3, SIZE, DIMENSIONS, quantizer_dropout=dropout)

    torch.manual_seed(1)
    whole = run(fresh(), range(8))
    torch.manual_seed(1)
    half = run(fresh(), range(4))
    saved, random_state = half.state_dict(), torch.get_rng_state()
    torch.manual_seed(99)
    resumed = fresh()
    resumed.load_state_dict(saved)
    torch.set_rng_state(random_state)
    run(resumed, range(4, 8))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_dropped_codebooks_are_minus_one_and_add_nothing():
    rvq, depths = started(quantizer_dropout=True), set()
    for step in range(20):
        latents, codes, _ = rvq(vectors(1, DIMENSIONS, 5, seed=step))
        used = (codes >= 0).all(dim=2).sum().item()
        assert (codes[:, used:] == -1).all()
        depths.add(used)
    assert depths == {1, 2, 3}
    rvq.eval()
    codes = rvq(vectors(1, DIMENSIONS, 5)).codes
    assert (codes >= 0).all()
    first_alone = codes.clone()
    first_alone[:, 1:] = -1
    torch.testing.assert_close(rvq.dequantise(first_alone)[0].T, state(rvq)[0][codes[0, 0]])


def test_half_precision_is_computed_in_single():
    rvq = started().eval()
    z = vectors(1, DIMENSIONS, 30).bfloat16()
    output = rvq(z)
    assert output.latents.dtype == torch.bfloat16
    assert torch.equal(output.codes, rvq(z.float()).codes)


# --- Gaussian latents -----------------------------------------------------------------------------------------------


def test_kl_equals_torch_distributions():
    gaussian, z = Gaussian(4), 3 * vectors(2, 8, 10)
    mean, logvar = gaussian.parameters_of(z)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, logvar), expected)
    torch.testing.assert_close(gaussian(z).losses["kl"], expected.sum(1).mean())
    assert gaussian_kl(torch.zeros(1), torch.zeros(1)) == 0


def test_training_samples_and_validation_takes_the_mean():
    gaussian, z = Gaussian(2), torch.tensor([1.0, -2.0, 0.5, -3.0]).view(1, 4, 1).expand(1, 4, 40_000)
    mean, logvar = gaussian.parameters_of(z)
    torch.manual_seed(0)
    samples = gaussian(z).latents
    torch.testing.assert_close(samples.mean(2), mean[:, :, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(samples.var(2), logvar[:, :, 0].exp(), atol=0, rtol=0.03)
    output = gaussian.eval()(z)
    assert torch.equal(output.latents, mean)
    assert output.codes is None


def test_padding_has_no_part_in_the_kl():
    gaussian, z = Gaussian(3), vectors(2, 6, 8)
    mask = torch.ones(2, 1, 8)
    mask[1, :, 5:] = 0
    spoilt = z.masked_fill(mask == 0, 100.0)
    parts = [gaussian(z[:1]).losses["kl"] * 8, gaussian(z[1:, :, :5]).losses["kl"] * 5]
    torch.testing.assert_close(gaussian(spoilt, mask).losses["kl"], sum(parts) / 13)


@pytest.mark.parametrize("raw", [-40.0, -5.0, 0.0, 5.0, 40.0])
def test_log_variance_is_bounded_and_its_gradient_leads_back(raw):
    z = torch.tensor([0.0, raw]).view(1, 2, 1).requires_grad_()
    _, logvar = Gaussian(1).parameters_of(z)
    assert abs(logvar.item()) <= LOGVAR_BOUND
    kl = Gaussian(1)(z).losses["kl"]
    kl.backward()
    gradient = z.grad[0, 1, 0].item()
    assert abs(gradient) < 1e3
    assert gradient * raw > 0 or raw == 0  # downhill is towards 0
