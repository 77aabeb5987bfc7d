"""Networks of which each process holds a part of every layer, to answer what no device holds whole.

Attention is divided by heads and the MLP by its width, as transformers' plan for the model says
(`tp_plan`). The processes of a group compute the same batch together, layer by layer; where there
are several groups, each has a whole network and answers its share of the batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from repro.errors import ConfigError
from repro.models import loading
from repro.models.devices import processes
from repro.models.registry import ModelEntry
from repro.models.weights import obtain

if TYPE_CHECKING:  # PyTorch is loaded with the network
    import torch
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Styles of transformers' plans that divide a layer by heads and width. Others gather what a fused
# matrix gives, so that each process computes, and keeps keys and values of, all heads.
STYLES_OF_LAYERS = ("colwise", "rowwise", "replicated_with_grad_allreduce")
_MESHES: WeakKeyDictionary[PreTrainedModel, DeviceMesh] = WeakKeyDictionary()


class Group(NamedTuple):
    """The processes that compute a network together: which of how many groups, and its size.

    `rank` is the place of this process in its group.
    """

    index: int
    number: int
    size: int = 1
    rank: int = 0


def group(network: object) -> Group:
    """Return the group of this process; a network that is not divided is computed by one alone."""
    sharing = processes()
    if network not in _MESHES:
        return Group(sharing.process_index, sharing.num_processes)
    size, rank = _MESHES[network].size(), _MESHES[network].get_local_rank()
    return Group(sharing.process_index // size, sharing.num_processes // size, size, rank)


def same_in_group(network: object, values: torch.Tensor) -> torch.Tensor:
    """Return in all processes of a group the values of its first one.

    They choose the same tokens but for rounding, and must never choose different ones: each would
    wait for the others in another batch.
    """
    if network in _MESHES:
        import torch

        torch.distributed.broadcast(values, group=_MESHES[network].get_group(), group_src=0)
    return values


def size_of_group(config: PretrainedConfig, number: int) -> int:
    """Return among how many of `number` processes a network is divided: as many as its heads allow.

    Raises:
        ConfigError: its heads cannot be divided among any of them.
    """
    text = config.get_text_config()
    heads = text.num_attention_heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    size = gcd(number, heads, key_heads)
    if size == 1:
        raise ConfigError(
            f"a network with {heads} attention heads and {key_heads} of keys cannot be divided"
            f" among {number} processes by tensor parallelism: launch a number of processes that"
            f" has a divisor with {gcd(heads, key_heads)} in common, or set"
            " REPRO_TENSOR_PARALLEL=false"
        )
    return size


def load(
    model: ModelEntry, weights: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model as `loading.load_mapped` does, divided among the processes of a group.

    Each process reads its parts of the mapped weights, tensor by tensor.

    Raises:
        ConfigError: the heads, or the matrices, cannot be divided.
        ModelError: a weight is missing or has another shape.
    """
    network = loading.empty_network(obtain(model))
    mesh = _mesh(size_of_group(network.config, processes().num_processes))
    _divide(network, mesh)
    _MESHES[network] = mesh
    return loading.with_weights(model, network, weights, dtype)


def _mesh(size: int) -> DeviceMesh:
    """Return the processes of this one's group: neighbours, which a machine has in common."""
    from torch.distributed.device_mesh import init_device_mesh

    sharing = processes()
    shape = sharing.num_processes // size, size
    return init_device_mesh(sharing.device.type, shape, mesh_dim_names=("data", "tensor"))["tensor"]


def _divide(network: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Divide the parameters of a network without weights, as transformers' plan for it says."""
    try:
        from transformers.distributed.tensor_parallel import apply_tensor_parallelism
    except ImportError as error:
        raise ConfigError(
            "this version of transformers divides no network that is already made: install that of"
            " requirements.lock"
        ) from error
    plan = _plan(network)
    styles = {style for name, style in plan.items() if "*" in _pattern(name)}
    if not styles or not styles <= set(STYLES_OF_LAYERS):
        raise ConfigError(
            f"{type(network).__name__} cannot be divided by tensor parallelism: transformers has"
            " no plan for it, or one for fused matrices; set REPRO_TENSOR_PARALLEL=false"
        )
    apply_tensor_parallelism(network, mesh, plan)
    network.tie_weights()  # an output matrix that is the look-up table is divided with it


def _plan(network: PreTrainedModel) -> dict[str, str]:
    """Return the style of each parameter and module that transformers' plan for the model names.

    Its names have a `*` for the number of a layer. A parameter comes before its module, which
    apply to it in this order; a tied one is named once.
    """
    by_pattern, styles = network.tp_plan or {}, {}
    for name, _ in network.named_parameters():
        if style := by_pattern.get(_pattern(name)) or by_pattern.get(
            _pattern(name.rpartition(".")[0])
        ):
            styles[name] = style
    for name, _ in network.named_modules():
        if style := by_pattern.get(_pattern(name)):
            styles[name] = style
    return styles


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
