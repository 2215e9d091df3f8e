"""Pseudo quadrature mirror filters: a wave as critically sampled sub-bands, and back (Nguyen, 1994)."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

# of the Kaiser windows at 16 taps a band, 8.5 rebuilds best
TAPS_PER_BAND = 16
KAISER_BETA = 8.5


def _low_pass(n_bands: int, cutoff: float) -> np.ndarray:
    """Kaiser-windowed sinc (16 * n_bands + 1,); the cutoff is a fraction of half the sample rate."""
    taps = TAPS_PER_BAND * n_bands
    return cutoff * np.sinc(cutoff * (np.arange(taps + 1) - taps / 2)) * np.kaiser(taps + 1, KAISER_BETA)


@lru_cache
def prototype(n_bands: int) -> np.ndarray:
    """The low-pass that all bands are shifted copies of.

    Its cutoff makes the filter with itself a 2 * n_bands-th band filter, as nearly as a Kaiser window can: it
    minimises max |(p * p)[2 n_bands n]|, n != 0, about the centre (Lin and Vaidyanathan, 1998).
    """

    def overlap(cutoff: float) -> float:
        low_pass = _low_pass(n_bands, cutoff)
        return np.abs(np.convolve(low_pass, low_pass)[TAPS_PER_BAND * n_bands :][2 * n_bands :: 2 * n_bands]).max()

    best = minimize_scalar(overlap, bounds=(0.5 / n_bands, 0.75 / n_bands), options={"xatol": 1e-9})
    return _low_pass(n_bands, best.x)


def cosine_filters(n_bands: int) -> tuple[Tensor, Tensor]:
    """Analysis and synthesis filters, (n_bands, 16 * n_bands + 1) each:
    2 p[n] cos((2k + 1) pi / (2 n_bands) (n - N / 2) + s (-1)^k pi / 4), s = 1 for analysis and -1 for synthesis."""
    low_pass = prototype(n_bands)
    n = np.arange(len(low_pass)) - len(low_pass) // 2
    k = np.arange(n_bands)[:, None]
    angles = (2 * k + 1) * np.pi / (2 * n_bands) * n
    quarter = (-1.0) ** k * np.pi / 4
    return tuple(torch.from_numpy(2 * low_pass * np.cos(angles + sign * quarter)).float() for sign in (1, -1))


class PQMF(nn.Module):
    """Filter bank without delay: sub-band sample t belongs to wave sample t * n_bands, and synthesis(analysis(wave))
    is the wave to within -64 dB, but for the 16 * n_bands samples at either end. With `learned`, the synthesis filters
    are parameters that start there (multi-stream iSTFT-VITS, arXiv 2210.15975)."""

    def __init__(self, n_bands: int, learned: bool = False):
        super().__init__()
        self.n_bands = n_bands
        self.padding = TAPS_PER_BAND * n_bands // 2
        analysis, synthesis = cosine_filters(n_bands)
        # conv1d correlates, so the filters are turned round in time
        self.register_buffer("analysis_filters", analysis.flip(1).unsqueeze(1), persistent=False)
        synthesis = n_bands * synthesis.unsqueeze(1)
        if learned:
            self.synthesis_filters = nn.Parameter(synthesis)
        else:
            self.register_buffer("synthesis_filters", synthesis, persistent=False)

    def analysis(self, wave: Tensor) -> Tensor:
        """(B, samples) -> (B, n_bands, samples / n_bands), lowest band first; samples a multiple of n_bands."""
        assert wave.shape[-1] % self.n_bands == 0, "not a whole number of sub-band samples"
        with torch.autocast(wave.device.type, enabled=False):
            wave = wave.float().unsqueeze(1)
            return F.conv1d(wave, self.analysis_filters, stride=self.n_bands, padding=self.padding)

    def synthesis(self, subbands: Tensor) -> Tensor:
        """(B, n_bands, T) -> (B, T * n_bands)."""
        with torch.autocast(subbands.device.type, enabled=False):
            return F.conv_transpose1d(
                subbands.float(), self.synthesis_filters,
                stride=self.n_bands, padding=self.padding, output_padding=self.n_bands - 1,
            ).squeeze(1)
