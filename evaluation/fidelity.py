"""How near a copy comes to its recording, sample by sample: for waves that were made from the recording itself."""

import logging
import warnings

import numpy as np
import pesq
import pystoi
import torch

from config import AudioConfig
from losses import mel_l1
from mel_processing import log_mel

log = logging.getLogger(__name__)

RATE = 16000  # Hz, of the waves that PESQ and STOI take


def compare_copy(copy: np.ndarray, recording: np.ndarray) -> dict[str, float | None]:
    """`pesq` (wide-band, ITU-T P.862.2, 1 to 4.64) and `stoi` (0 to 1) of waves (samples,) at `RATE`; None where the
    recording has too little speech for them."""
    samples = min(len(copy), len(recording))
    copy, recording = copy[:samples], recording[:samples]
    quality = None
    try:
        if recording.any() and copy.any():
            quality = float(pesq.pesq(RATE, recording, copy, "wb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError) as error:
        log.info("no PESQ: %s", error)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # it warns, and gives 1e-5, where frames are missing
        try:
            intelligibility = float(pystoi.stoi(recording, copy, RATE))
        except RuntimeWarning:
            intelligibility = None
    return {"pesq": quality, "stoi": intelligibility}


def copy_mel_l1(copy: torch.Tensor, recording: torch.Tensor, audio: AudioConfig) -> float:
    """Mean absolute difference of the log-mels of waves (samples,) at the rate of `audio`."""
    samples = min(len(copy), len(recording))
    return float(mel_l1(log_mel(copy[None, :samples], audio), log_mel(recording[None, :samples], audio)))
