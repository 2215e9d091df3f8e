import torch

from synthesis.watch import RepetitionWatch, longest_silence

RATE = 20.0


def natural(n_codebooks: int, n_frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(50, (n_codebooks, n_frames), generator=torch.Generator().manual_seed(seed))


def test_what_repeats_itself_is_noticed():
    assert RepetitionWatch(RATE).stuck_at(natural(4, 400)) is None
    for period in (1, 3, 20):
        loop = natural(4, period, seed=period).repeat(1, 200)
        codes = torch.cat([natural(4, 100), loop], dim=1)
        found = RepetitionWatch(RATE).stuck_at(codes)
        # half of a window of 30 frames, once the first round is over
        assert 100 + period + 10 <= found <= 100 + period + 30
        noisy = torch.where(torch.rand(codes.shape, generator=torch.Generator().manual_seed(1)) < 0.1, 99, codes)
        assert RepetitionWatch(RATE).stuck_at(noisy) <= 100 + period + 40
    short = torch.cat([natural(4, 100), natural(4, 1).repeat(1, 12), natural(4, 100, seed=2)], dim=1)
    assert RepetitionWatch(RATE).stuck_at(short) is None


def test_frame_by_frame_it_is_noticed_at_the_same_frame():
    codes = torch.cat([natural(2, 60), natural(2, 4).repeat(1, 30)], dim=1)
    expected = RepetitionWatch(RATE).stuck_at(codes)
    watch = RepetitionWatch(RATE)
    found = [watch.stuck_at(codes[:, :count]) for count in range(1, expected + 1)]
    assert found == [None] * (expected - 1) + [expected]


def test_the_longest_silence():
    noise = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    wave = torch.cat([torch.zeros(4000), noise, torch.zeros(32000), noise, torch.zeros(8000)])
    assert abs(longest_silence(wave, 16000) - 2) < 0.05
    assert longest_silence(noise, 16000) < 0.05
    assert longest_silence(torch.zeros(16000), 16000) == 1
