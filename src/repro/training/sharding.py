"""Builds, fills and writes networks that accelerate's FSDP2 divides among processes (§3.3).

Every process holds an equal share of the rows of each float32 weight, of its gradient and of
AdamW's moments. A layer is gathered when it computes, and freed afterwards. The network is built
without memory and then filled from mapped tensors one by one, so no process ever holds all of it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate.utils import (
    FullyShardedDataParallelPlugin,
    broadcast_object_list,
    reduce,
)
from accelerate.utils.fsdp_utils import fsdp2_apply_ac, fsdp2_prepare_model
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy
from transformers import PreTrainedModel

from repro.errors import StoreError
from repro.models import loading
from repro.models.devices import processes
from repro.models.launch import Sharding
from repro.models.shards import parameters

SAFETENSORS_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def is_sharded(network) -> bool:
    """Tell whether a network is divided among processes."""
    return isinstance(network, FSDPModule)


def sharded_network(
    folder: Path, weights: Mapping[str, torch.Tensor], sharding: Sharding, dtype: torch.dtype
) -> PreTrainedModel:
    """Return a network to fine-tune, divided among the processes, with float32 weights.

    Args:
        folder: holds `config.json`.
        weights: mapped tensors by the network's names for them, in any dtype.
        sharding: whether to offload, and whether to recompute activations.
        dtype: of the matrix products; gradients are added up in float32.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    network = _divided(loading.empty_network(folder), sharding, dtype)
    device = torch.device("cpu") if sharding.offload else processes().device
    loading.fill(network, weights, torch.float32, device)
    return network


def _divided(network, sharding: Sharding, dtype: torch.dtype) -> PreTrainedModel:
    """Divide a network layer by layer with accelerate's functions for FSDP2.

    They are called directly because `Accelerator.prepare` does not divide a network on a CPU.
    """
    half = dtype is torch.bfloat16
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        # Pinned memory, which a GPU reads directly, is useful only with a GPU.
        cpu_offload=CPUOffloadPolicy(pin_memory=torch.accelerator.is_available())
        if sharding.offload
        else False,
        activation_checkpointing=sharding.recompute,
        cpu_ram_efficient_loading=False,
        mixed_precision_policy=MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32
        ),
    )
    # The attributes of an accelerator that the two functions read.
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision="no",  # the policy above replaces it
        is_main_process=processes().is_main_process,
        torch_device_mesh=None,  # all processes share one network
        device=processes().device,
    )
    if sharding.recompute:
        network = fsdp2_apply_ac(accelerator, network)
    return fsdp2_prepare_model(accelerator, network)


def reshard(network: PreTrainedModel) -> None:
    """Let every process keep only its rows of all weights.

    A forward pass without a backward pass leaves the last norm and the output matrix gathered. An
    optimizer made afterwards would hold weights that are then discarded.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def clip(local_gradients: list[torch.Tensor], limit: float) -> None:
    """Scale the gradients of all processes so that the norm of the whole is at most `limit`."""
    squares = sum(g.flatten().dot(g.flatten()) for g in local_gradients)
    norm = reduce(squares.to(processes().device), "sum").sqrt().item()
    if norm > limit:
        for gradient in local_gradients:
            gradient.mul_(limit / norm)


# --- writing ------------------------------------------------------------------------------------


def write_weights(network: PreTrainedModel, path: Path, dtype: torch.dtype) -> None:
    """Write all parameters to one safetensors file, gathered one by one; the first process writes.

    Args:
        network: divided among processes, all of which call this.
        path: a new file, in a folder that exists.
        dtype: float32 or bfloat16.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    named = parameters(network)
    error, file = None, None
    try:
        if processes().is_main_process:
            file = path.open("wb")
            file.write(_header({n: p.shape for n, p in named.items()}, dtype))
    except OSError as raised:
        error = raised
    for values in _gathered(named, dtype):
        try:
            if file and not error:
                file.write(values.view(torch.uint8).numpy().data)
        except OSError as raised:  # the others wait for this process in the next gathering
            error = raised
    if file:
        file.close()
    _raise_together(path, error)


def _gathered(named: dict[str, torch.nn.Parameter], dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Yield each parameter in full, flat, on the CPU."""
    for parameter in named.values():
        yield parameter.detach().full_tensor().to(dtype).cpu().contiguous().view(-1)


def _header(shapes: dict[str, torch.Size], dtype: torch.dtype) -> bytes:
    """Return the first bytes of a safetensors file of these tensors, in their order."""
    start, entries = 0, {"__metadata__": {"format": "pt"}}
    for name, shape in shapes.items():
        end = start + shape.numel() * dtype.itemsize
        entry = {"dtype": SAFETENSORS_TYPES[dtype], "shape": list(shape)}
        entries[name] = {**entry, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return len(text).to_bytes(8, "little") + text


def _raise_together(path: Path, error: OSError | None) -> None:
    """Raise StoreError in all processes if the first one could not write."""
    (reason,) = broadcast_object_list([error and (error.strerror or str(error))])
    if reason:
        raise StoreError(
            f"cannot write {path} ({reason}): check the permissions and the free space, or set"
            " REPRO_CACHE to another folder"
        )
