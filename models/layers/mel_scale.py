"""Log-mel as networks like it: near zero mean and unit variance."""

from torch import Tensor

# log-mel of speech at -23 LUFS lies between log(1e-5) and about 2
MEL_MEAN, MEL_SCALE = -5.0, 2.5


def standardise(mel: Tensor) -> Tensor:
    """Log-mel -> values of about unit variance."""
    return (mel - MEL_MEAN) / MEL_SCALE


def unstandardise(x: Tensor) -> Tensor:
    """What `standardise` gave -> log-mel."""
    return x * MEL_SCALE + MEL_MEAN
