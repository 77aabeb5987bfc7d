"""The part of a tensor that one of several processes holds, as DTensors are divided."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # PyTorch is loaded with the network
    import torch
    from torch.distributed.tensor import DTensor

WRAPPED = "_checkpoint_wrapped_module."  # in the names of layers whose activations are recomputed


def parameters(network: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters by the names that they have in an undivided network."""
    return {name.replace(WRAPPED, ""): p for name, p in network.named_parameters()}


def part(tensor: torch.Tensor, dim: int, rank: int, number: int) -> torch.Tensor:
    """Return one of `number` parts of a tensor along a dimension, without copying it.

    The parts are equal, but the last ones may be shorter or empty: FSDP2 divides rows so, and
    tensor parallelism rows or columns.
    """
    length = tensor.shape[dim]
    size = -(-length // number)
    first = min(rank * size, length)
    return tensor.narrow(dim, first, min(size, length - first))


def part_of_process(tensor: torch.Tensor, parameter: DTensor) -> torch.Tensor:
    """Return the part of a whole tensor that this process holds of a divided parameter."""
    mesh = parameter.device_mesh
    ranks = zip(mesh.get_coordinate(), mesh.shape, parameter.placements, strict=True)
    for rank, number, placement in ranks:
        if placement.is_shard():
            tensor = part(tensor, placement.dim, rank, number)
    return tensor


def copy_into(parameter: torch.nn.Parameter, values: torch.Tensor) -> None:
    """Copy values into a parameter, in its own dtype; of a divided one, this process's part."""
    if hasattr(parameter, "to_local"):  # a DTensor; its type is slow to import
        parameter.to_local().copy_(part_of_process(values, parameter))
    else:
        parameter.copy_(values)
