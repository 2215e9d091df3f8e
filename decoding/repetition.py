"""Codes that go round in a circle: a sign that speech went wrong. Needs no torch."""

import numpy as np

# of 1.5 s of recorded speech, at most 0.10 of the codes are those of some period up to 1 s before, in 250 clips of
# configs/voice.json's codec
REPEATED_SECONDS = 1.5
REPEATED_SHARE = 0.5
LONGEST_PERIOD_SECONDS = 1.0


class RepetitionWatch:
    """Notices codes that repeat themselves, with any period up to LONGEST_PERIOD_SECONDS, not necessarily exactly."""

    def __init__(self, frame_rate: float):
        """`frame_rate`: code frames a second."""
        self.window = round(REPEATED_SECONDS * frame_rate)
        self.longest = max(1, round(LONGEST_PERIOD_SECONDS * frame_rate))
        self.shares = np.zeros((self.window, self.longest))
        """Of the last frames, for every period: the share of the codebooks that repeat the frame that long before."""
        self.seen = 0

    def stuck_at(self, codes: np.ndarray) -> int | None:
        """`codes` (n_codebooks, frames), which begin with those of the call before: how many frames it takes to see
        that most of the last REPEATED_SECONDS are a repetition; None if they are not."""
        for t in range(self.seen, codes.shape[1]):
            self.seen = t + 1
            before = codes[:, max(0, t - self.longest) : t]
            shares = self.shares[t % self.window]
            shares[:] = 0
            shares[: before.shape[1]] = (before == codes[:, t : t + 1]).mean(0)[::-1]
            if t + 1 >= self.window and self.shares.mean(0).max() >= REPEATED_SHARE:
                return t + 1
        return None
