"""The sum over paths and the best path against brute force and PyTorch's CTC; the prior against SciPy's."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import betabinom

from models.layers.alignment import beta_binomial_prior, forward_sum_loss, monotonic_path


def all_paths(frames, length, optional):
    """Durations of every path: at least one frame for each unit that is not optional."""
    for durations in itertools.product(range(frames + 1), repeat=length):
        if sum(durations) == frames and all(n or o for n, o in zip(durations, optional, strict=True)):
            yield durations


def path_value(log_p, durations):
    units = [unit for unit, n in enumerate(durations) for _ in range(n)]
    return float(log_p[torch.arange(len(units)), units].double().sum())


CASES = [
    (1, [False]), (1, [True, False, True]), (4, [False, False]), (5, [True, False, True]),
    (6, [True, False, True, False, True]), (5, [False, True, False, True]), (6, [False, False, False, True, False]),
    (3, [False, False, False]),
]


@pytest.mark.parametrize(("frames", "optional"), CASES)
def test_brute_force(frames, optional):
    log_p = torch.randn(frames, len(optional), generator=torch.Generator().manual_seed(len(optional)))
    paths = {durations: path_value(log_p, durations) for durations in all_paths(frames, len(optional), optional)}
    arguments = (log_p.unsqueeze(0), torch.tensor([frames]), torch.tensor([len(optional)]), torch.tensor([optional]))
    total = torch.tensor(list(paths.values())).logsumexp(0)
    torch.testing.assert_close(forward_sum_loss(*arguments)[0], -total.float())
    best = max(paths, key=paths.get)
    assert tuple(monotonic_path(*arguments)[0].tolist()) == best


def batch(optional_share=0.0):
    generator = torch.Generator().manual_seed(3)
    log_p = torch.randn(3, 30, 9, generator=generator).log_softmax(-1)
    frames, lengths = torch.tensor([30, 12, 9]), torch.tensor([9, 5, 9])
    optional = torch.zeros(3, 9, dtype=torch.bool)
    optional[:, ::2] = bool(optional_share)
    return log_p, frames, lengths, optional


def test_without_optional_units_it_is_ctc_with_an_impossible_blank():
    log_p, frames, lengths, _ = batch()
    log_p.requires_grad_(True)
    mine = forward_sum_loss(log_p, frames, lengths)
    (gradient,) = torch.autograd.grad(mine.sum(), log_p)
    with_blank = F.pad(log_p, (1, 0), value=-1e4).transpose(0, 1)
    labels = torch.arange(1, 10).expand(3, -1)
    ctc = F.ctc_loss(with_blank, labels, frames, lengths, reduction="none")
    torch.testing.assert_close(mine, ctc)
    # ctc_loss gives its gradient as if log_softmax came before; the paths' shares differ from it by p itself
    (theirs,) = torch.autograd.grad(ctc.sum(), log_p)
    shares = -gradient
    inside = torch.arange(30) < frames.unsqueeze(1)
    torch.testing.assert_close((log_p.exp() - theirs)[inside].detach(), shares[inside], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(shares.sum(2), inside.float())


def test_gradient_is_the_derivative():
    log_p, frames, lengths, optional = batch(optional_share=1)
    log_p = log_p.double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(forward_sum_loss(log_p, frames, lengths, optional).sum(), log_p)
    for cell in [(0, 3, 2), (1, 11, 3), (1, 0, 0), (2, 5, 5)]:
        step = torch.zeros_like(log_p)
        step[cell] = 1e-2
        up, down = (forward_sum_loss(log_p.detach() + s, frames, lengths, optional).sum() for s in (step, -step))
        assert float((up - down) / 2e-2) == pytest.approx(float(gradient[cell]), abs=2e-3)


def test_durations_of_a_batch():
    log_p, frames, lengths, optional = batch(optional_share=1)
    durations = monotonic_path(log_p, frames, lengths, optional)
    assert durations.sum(1).tolist() == frames.tolist()
    for row, length, free in zip(durations, lengths.tolist(), optional, strict=True):
        assert (row[:length][~free[:length]] >= 1).all()
        assert (row[length:] == 0).all()
    alone = monotonic_path(log_p[1:2, :12, :5], frames[1:2], lengths[1:2], optional[1:2, :5])
    assert alone[0].tolist() == durations[1, :5].tolist()


def test_too_few_frames_are_refused():
    log_p = torch.zeros(1, 3, 4)
    with pytest.raises(ValueError, match=r"need \[4\] frames cannot be aligned to \[3\]"):
        monotonic_path(log_p, torch.tensor([3]), torch.tensor([4]))


@pytest.mark.parametrize(("frames", "length", "scale"), [(7, 3, 1.0), (20, 8, 0.5), (5, 1, 1.0)])
def test_prior_is_scipys(frames, length, scale):
    mine = beta_binomial_prior(frames, length, scale)
    for t in range(1, frames + 1):
        theirs = betabinom.logpmf(range(length), length - 1, scale * t, scale * (frames - t + 1))
        torch.testing.assert_close(mine[t - 1], torch.tensor(theirs).float(), atol=1e-5, rtol=1e-5)
