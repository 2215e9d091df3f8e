import numpy as np

from decoding.repetition import RepetitionWatch

RATE = 20.0


def natural(n_codebooks: int, n_frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(50, size=(n_codebooks, n_frames))


def test_what_repeats_itself_is_noticed():
    assert RepetitionWatch(RATE).stuck_at(natural(4, 400)) is None
    for period in (1, 3, 20):
        loop = np.tile(natural(4, period, seed=period), 200)
        codes = np.concatenate([natural(4, 100), loop], axis=1)
        found = RepetitionWatch(RATE).stuck_at(codes)
        # half of a window of 30 frames, once the first round is over
        assert 100 + period + 10 <= found <= 100 + period + 30
        noisy = np.where(np.random.default_rng(1).random(codes.shape) < 0.1, 99, codes)
        assert RepetitionWatch(RATE).stuck_at(noisy) <= 100 + period + 40
    short = np.concatenate([natural(4, 100), np.tile(natural(4, 1), 12), natural(4, 100, seed=2)], axis=1)
    assert RepetitionWatch(RATE).stuck_at(short) is None


def test_frame_by_frame_it_is_noticed_at_the_same_frame():
    codes = np.concatenate([natural(2, 60), np.tile(natural(2, 4), 30)], axis=1)
    expected = RepetitionWatch(RATE).stuck_at(codes)
    watch = RepetitionWatch(RATE)
    found = [watch.stuck_at(codes[:, :count]) for count in range(1, expected + 1)]
    assert found == [None] * (expected - 1) + [expected]
