"""How much memory a training step takes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def state_gigabytes(network: nn.Module, ema: bool) -> float:
    """GB for weights, gradients, both AdamW moments and the moving average, all float32."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in network.parameters())
    return 4 * (total + 3 * trained + (total if ema else 0)) / 1e9


class SavedTensors:
    """Counts the bytes that a forward pass keeps for its backward pass, each storage once."""

    def __init__(self):
        self._held: dict[int, int] = {}

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        """The context in which it counts."""
        return torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        self._held[tensor.data_ptr()] = max(self._held.get(tensor.data_ptr(), 0), tensor.nbytes)
        return tensor

    def gigabytes(self, weights: set[int]) -> float:
        """Of all but those at the addresses `weights`."""
        return sum(size for address, size in self._held.items() if address not in weights) / 1e9


def step_gigabytes(networks: Iterable[nn.Module], ema: bool, held: SavedTensors, device: torch.device) -> float:
    """GB of all that is in memory for a step on `device`, after one forward and backward pass within `held`."""
    networks = list(networks)
    if device.type == "cuda":
        moments = sum(8 * p.numel() for network in networks for p in network.parameters() if p.requires_grad)
        return (torch.cuda.max_memory_allocated() + moments) / 1e9
    weights = {p.data_ptr() for network in networks for p in network.parameters()}
    return sum(state_gigabytes(network, ema and network is networks[0]) for network in networks) \
        + held.gigabytes(weights)
