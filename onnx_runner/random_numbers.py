"""The random numbers that PyTorch draws on a CPU from a seed (Mersenne Twister), so that a seed says the same."""

import secrets

import numpy as np

NORMALS = 16
"""PyTorch makes them in blocks of so many."""


class TorchRandom:
    """`torch.Generator().manual_seed(seed)`; any numbers if there is no seed."""

    def __init__(self, seed: int | None):
        # of a seed, PyTorch takes the lower half
        self.raw = np.random.RandomState((secrets.randbits(32) if seed is None else seed) % 2**32)

    def _integers(self, count: int) -> np.ndarray:
        return self.raw.randint(2**32, size=count, dtype=np.uint32)

    def seed(self) -> int:
        """`torch.randint(2**62, (1,))`"""
        high, low = self._integers(2).tolist()
        return (high << 32 | low) % 2**62

    def uniform(self, *shape: int) -> np.ndarray:
        """`torch.rand(*shape)`"""
        values = self._integers(int(np.prod(shape))) % 2**24
        return (values / np.float32(2**24)).astype(np.float32).reshape(shape)

    def normal(self, *shape: int) -> np.ndarray:
        """`torch.randn(*shape)` of at least 16 numbers, but for their rounding."""
        count = int(np.prod(shape))
        assert count >= NORMALS, "fewer numbers are made in another way"
        values = self.uniform(count)
        whole = count - count % NORMALS
        values[:whole] = _normals(values[:whole])
        if count > whole:  # the last block is drawn anew, and reaches back
            values[-NORMALS:] = _normals(self.uniform(NORMALS))
        return values.reshape(shape)


def _normals(uniform: np.ndarray) -> np.ndarray:
    """Box and Muller (1958): the first half of a block gives the radius, the second the angle."""
    first, second = np.split(uniform.reshape(-1, 2, NORMALS // 2), 2, axis=1)
    radius, angle = np.sqrt(-2 * np.log1p(-first)), np.float32(2 * np.pi) * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
