"""The rows of a tensor that each process holds when FSDP2 divides a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repro.models.devices import processes

if TYPE_CHECKING:  # PyTorch is loaded with the network
    import torch

WRAPPED = "_checkpoint_wrapped_module."  # in the names of layers whose activations are recomputed


def parameters(network: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters by the names that they have in an undivided network."""
    return {name.replace(WRAPPED, ""): p for name, p in network.named_parameters()}


def rows_of_process(tensor: torch.Tensor) -> torch.Tensor:
    """Return the rows of a tensor that this process holds, without copying them.

    FSDP2 gives equal numbers of rows to all processes, and fewer or none to the last ones.
    """
    rank, number = processes().process_index, processes().num_processes
    size = -(-len(tensor) // number)
    return tensor[min(rank * size, len(tensor)) : min((rank + 1) * size, len(tensor))]


def copy_into(parameter: torch.nn.Parameter, values: torch.Tensor) -> None:
    """Copy values into a parameter, in its own dtype; of a divided one, this process's rows."""
    if hasattr(parameter, "to_local"):  # a DTensor; its type is slow to import
        parameter.to_local().copy_(rows_of_process(values))
    else:
        parameter.copy_(values)
