"""A network split between processes (FSDP): each holds a part of its weights, gradients and optimizer state.

What is saved is whole, as if one process had trained: it can be resumed with any number of processes, split or not.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from launcher import process_count


def shard(network: nn.Module, blocks: list[nn.Module], device: torch.device, precision: str) -> None:
    """Splits a network in place, block by block: no process ever holds more than one block's weights whole, and those
    that are in no block. `precision`: fp32 or bf16, in which it computes as a whole network does (autocast)."""
    mesh = init_device_mesh(device.type, (process_count(),))
    for module in [*blocks, network]:
        fully_shard(module, mesh=mesh)
    if precision == "bf16":
        network.forward = torch.autocast(device.type, torch.bfloat16)(network.forward)


def whole(values: Any) -> Any:
    """Nested dicts and lists with every split tensor gathered on the CPU; all else as it is. For all processes."""
    if isinstance(values, DTensor):
        return values.full_tensor().cpu()
    if isinstance(values, dict):
        return {key: whole(value) for key, value in values.items()}
    if isinstance(values, list):
        return [whole(value) for value in values]
    return values


def split_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor, split as a parameter of its shape is; as it is if that is not split, or has another shape."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def load_whole(network: nn.Module, weights: dict) -> None:
    """Whole weights into a network that may be split."""
    own = network.state_dict()
    network.load_state_dict({name: split_like(value, own[name]) for name, value in weights.items()})


def load_whole_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """An optimizer's whole state into that of a network that may be split."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    split = {index: {name: split_like(value, parameters[index]) if torch.is_tensor(value) else value
                     for name, value in values.items()} for index, values in state["state"].items()}
    optimizer.load_state_dict(state | {"state": split})
