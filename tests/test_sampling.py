import pytest
import torch

from models.layers.sampling import Sampling, filtered_probabilities, sample

NOTHING = torch.zeros(1, 0)


def reference(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """Temperature, top-k, top-p in plain Python."""
    weights = [2.718281828459045 ** (x / temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    kept = order[:top_k] if top_k else order
    total = sum(weights[i] for i in kept)
    nucleus, mass = [], 0.0
    for i in kept:
        nucleus.append(i)
        mass += weights[i] / total
        if mass >= top_p:
            break
    total = sum(weights[i] for i in nucleus)
    return [weights[i] / total if i in nucleus else 0.0 for i in range(len(logits))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 4, 50])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.35, 0.01])
def test_filters_equal_plain_python(temperature, top_k, top_p):
    logits = 3 * torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(0))
    found = filtered_probabilities(logits, Sampling(temperature, top_k, top_p))
    for i in range(2):
        for j in range(3):
            expected = torch.tensor(reference(logits[i, j].tolist(), temperature, top_k, top_p))
            torch.testing.assert_close(found[i, j], expected, atol=1e-5, rtol=1e-4)


def test_draws_follow_the_probabilities_and_the_seed():
    sampling = Sampling(temperature=0.7, top_k=3, repetition_window=0)
    logits = torch.tensor([0.0, 1.0, 2.0, 0.5]).expand(20_000, 4)
    draws = sample(logits, sampling, NOTHING, torch.Generator().manual_seed(1))
    shares = torch.bincount(draws, minlength=4) / len(draws)
    torch.testing.assert_close(shares, filtered_probabilities(logits[0], sampling), atol=0.01, rtol=0)
    assert torch.equal(draws, sample(logits, sampling, NOTHING, torch.Generator().manual_seed(1)))
    assert not torch.equal(draws, sample(logits, sampling, NOTHING, torch.Generator().manual_seed(2)))


def test_greedy_takes_the_largest_whatever_was_said():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    assert sample(logits, Sampling(temperature=0), torch.ones(1, 10, dtype=torch.long), None).tolist() == [1]


def test_a_code_that_repeats_is_drawn_again_from_all():
    # top-k 1 always draws code 2; drawn again without the filters, others come too
    logits = torch.tensor([0.0, 0.0, 1.0]).expand(3000, 3)
    sampling = Sampling(temperature=1.0, top_k=1, repetition_window=4, repetition_threshold=0.5)

    def draw(recent: list[int], sampling=sampling) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return sample(logits, sampling, torch.tensor(recent).expand(3000, -1), generator)

    for recent in ([2, 2, 0, 1], [0, 2, 2], [2, 2, 2, 0, 0, 1, 1]):  # half or less of the window
        assert (draw(recent) == 2).all(), recent
    for recent in ([2, 2, 2, 0], [0, 0, 0, 2, 2, 2]):
        shares = torch.bincount(draw(recent), minlength=3) / 3000
        torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.03, rtol=0)
    assert (draw([2, 2, 2, 2], Sampling(1.0, 1, repetition_window=0)) == 2).all()


def test_forbidden_codes_are_never_drawn():
    logits = torch.tensor([1.0, -torch.inf, 0.0]).expand(500, 3)
    recent = torch.zeros(500, 10, dtype=torch.long)
    draws = sample(logits, Sampling(temperature=2.0), recent, torch.Generator().manual_seed(0))
    assert set(draws.tolist()) == {0, 2}


@pytest.mark.parametrize(("settings", "message"), [
    ({"temperature": -0.1}, "temperature -0.1: must be 0"), ({"top_p": 0.0}, "top_p 0.0: must lie in"),
    ({"top_p": 1.1}, "top_p 1.1"), ({"top_k": -1}, "top_k and repetition_window"),
    ({"repetition_window": -1}, "top_k and repetition_window"), ({"temperature": float("nan")}, "temperature nan"),
])
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
