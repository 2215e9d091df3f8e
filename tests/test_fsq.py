import itertools
import math

import pytest
import torch

from models.layers.fsq import FSQ, perplexity

LEVELS = pytest.mark.parametrize("levels", [[8, 5, 5, 5], [3], [2, 2], [4, 7, 2]])


def scalar_reference(z: list[float], levels: list[int]) -> tuple[list[float], int]:
    """One vector of one codebook, in plain Python (FSQ's formulas): quantised values, code."""
    values, code, stride = [], 0, 1
    for x, n in zip(z, levels, strict=True):
        half = (n - 1) * 1.001 / 2
        offset = 0.5 if n % 2 == 0 else 0.0
        digit = round(math.tanh(x + math.atanh(offset / half)) * half - offset)
        values.append(digit / (n // 2))
        code += (digit + n // 2) * stride
        stride *= n
    return values, code


@LEVELS
def test_forward_equals_plain_python(levels):
    fsq = FSQ(levels, 3)
    z = 2 * torch.randn(2, fsq.n_channels, 7, generator=torch.Generator().manual_seed(0))
    quantised, codes, losses = fsq(z)
    assert losses == {}
    assert quantised.shape == z.shape
    assert codes.shape == (2, 3, 7)
    D = len(levels)
    for b, k, t in itertools.product(range(2), range(3), range(7)):
        part = slice(k * D, (k + 1) * D)
        values, code = scalar_reference(z[b, part, t].tolist(), levels)
        assert quantised[b, part, t].tolist() == pytest.approx(values)
        assert codes[b, k, t] == code


@LEVELS
def test_every_code_has_a_vector_that_gives_it_back(levels):
    fsq = FSQ(levels, 2)
    assert fsq.codebook_size == math.prod(levels)
    codes = torch.arange(fsq.codebook_size).expand(1, 2, -1)
    vectors = fsq.dequantise(codes)
    assert len({tuple(vector) for vector in vectors[0, : len(levels)].T.tolist()}) == fsq.codebook_size
    assert vectors.abs().max() <= 1
    # a z that lies on the value: the inverse of the bound
    n = torch.tensor(levels).view(-1, 1).repeat(2, 1)
    half, offset = (n - 1) / 2 * 1.001, torch.where(n % 2 == 0, 0.5, 0.0)
    z = torch.atanh((vectors[0] * (n // 2) + offset) / half) - torch.atanh(offset / half)
    quantised, found, _ = fsq(z[None])
    assert torch.equal(found, codes)
    torch.testing.assert_close(quantised, vectors)


def test_the_gradient_passes_straight_through_the_rounding():
    fsq = FSQ([5, 4], 1)
    z = torch.randn(1, 2, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(1, 2, 9)
    (fsq(z)[0] * weights).sum().backward()
    n = torch.tensor([5, 4]).view(1, 2, 1)
    half, offset = (n - 1) / 2 * 1.001, torch.where(n % 2 == 0, 0.5, 0.0)
    bounded = torch.tanh(z.detach() + torch.atanh(offset / half))
    torch.testing.assert_close(z.grad, weights * half * (1 - bounded.square()) / (n // 2))


def test_half_precision_gives_the_same_codes():
    fsq = FSQ([8, 5, 5, 5], 2)
    z = torch.randn(1, 8, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    quantised, codes, _ = fsq(z)
    assert quantised.dtype == torch.bfloat16
    assert torch.equal(codes, fsq(z.float())[1])


def test_perplexity():
    assert perplexity(torch.arange(8), 8) == pytest.approx((8.0, 1.0))
    assert perplexity(torch.zeros(5, dtype=torch.long), 8) == pytest.approx((1.0, 1 / 8))
    assert perplexity(torch.tensor([[0, 0], [3, 0]]), 4)[0] == pytest.approx(4 / 27**0.25)
