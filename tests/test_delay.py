import pytest
import torch

from models.layers.delay import delay, steps_for, undelay

BEGIN, END, PAD = 100, 101, 102


@pytest.mark.parametrize("n_codebooks", [1, 2, 4, 8])
def test_delay_equals_its_definition_and_comes_back(n_codebooks):
    lengths = [5, 1, 3]
    codes = torch.randint(100, (3, n_codebooks, 5), generator=torch.Generator().manual_seed(0))
    steps = delay(codes, torch.tensor(lengths), BEGIN, END, PAD)
    assert steps.shape == (3, n_codebooks, steps_for(5, n_codebooks))
    for b, length in enumerate(lengths):
        for k in range(n_codebooks):
            for s in range(steps.shape[2]):
                time = s - k
                expected = BEGIN if time < 0 else int(codes[b, k, time]) if time < length else PAD
                if k == 0 and time == length:
                    expected = END
                assert int(steps[b, k, s]) == expected
        assert torch.equal(undelay(steps[b : b + 1], length)[0], codes[b, :, :length])


@pytest.mark.parametrize("n_codebooks", [1, 2, 3, 8])
@pytest.mark.parametrize("frames", [1, 6])
def test_steps_end_with_the_last_code_and_the_end(n_codebooks, frames):
    steps = delay(torch.zeros(1, n_codebooks, frames, dtype=torch.long), torch.tensor([frames]), BEGIN, END, PAD)[0]
    assert steps.shape[1] == steps_for(frames, n_codebooks) == max(frames + 1, frames + n_codebooks - 1)
    assert steps[0].tolist().index(END) == frames
    assert steps[-1, -1] == (END if n_codebooks == 1 else 0)


def test_steps_of_many_clips_at_once():
    assert steps_for(torch.tensor([1, 7]), 4).tolist() == [4, 10]
