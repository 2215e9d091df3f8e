"""Short hashes that tell one codec from another."""

import hashlib
from collections.abc import Iterable

from torch import Tensor


def fingerprint(settings: str, weights: Iterable[Tensor]) -> str:
    """16 hexadecimal digits of SHA-256 over the settings and the bytes of the weights, in their order."""
    digest = hashlib.sha256(settings.encode())
    for tensor in weights:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
