"""Reads the settings of a launcher from the environment, and refuses those it would ignore."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from repro.errors import ConfigError

# Ways to share a model that accelerate offers and that are not used here. On a CPU accelerate
# ignores these settings silently.
UNUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
# Variables that give the number of this process among several; MPI has names of its own.
RANKS = ("RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
# The settings of FSDP that are used. The others are obsolete in version 2, or concern how a network
# is divided, which the code decides.
OFFLOAD = "FSDP_OFFLOAD_PARAMS"
RECOMPUTE = "FSDP_ACTIVATION_CHECKPOINTING"
STORED = "REPRO_FINETUNED_DTYPE"
TENSOR_PARALLEL = "REPRO_TENSOR_PARALLEL"
STORED_FORMATS = ("bfloat16", "float32")


@dataclass(frozen=True)
class Sharding:
    """How FSDP2 divides a fine-tuning among processes, from accelerate's configuration.

    Attributes:
        offload: weights, gradients and AdamW's moments are in the memory of the host, not of the
            GPU.
        recompute: the activations of a layer are computed again for its gradient instead of stored
            (activation checkpointing).
        stored: the dtype in which fine-tuned weights are written.
        tensor_parallel: whether the network that answers is divided too; None: if it does not fit
            one device. It changes answers by rounding alone, as the kind of device does.
    """

    offload: bool = False
    recompute: bool = False
    stored: str = "bfloat16"
    tensor_parallel: bool | None = None

    def parameters(self, processes: int) -> dict:
        """Return its part of a record's key: the settings that change the bits of the weights."""
        return {"sharding": {"processes": processes, "stored": self.stored}}


def sharding(environment: Mapping[str, str] = os.environ) -> Sharding | None:
    """Return how the launch divides a network among its processes; None if it does not.

    Raises:
        ConfigError: the version of FSDP is not 2, or the dtype of stored weights is unknown.
    """
    if not _is_on(environment, "ACCELERATE_USE_FSDP"):
        return None
    if (version := environment.get("FSDP_VERSION", "1")) != "2":
        raise ConfigError(
            f"accelerate is told to use FSDP of version {version}, which keeps each layer as one"
            " flat tensor: launch with --use_fsdp --fsdp_version 2"
        )
    stored = environment.get(STORED, STORED_FORMATS[0])
    if stored not in STORED_FORMATS:
        raise ConfigError(f"{STORED} is {stored!r}: give {' or '.join(STORED_FORMATS)}")
    told = _is_on(environment, TENSOR_PARALLEL) if environment.get(TENSOR_PARALLEL) else None
    return Sharding(_is_on(environment, OFFLOAD), _is_on(environment, RECOMPUTE), stored, told)


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError if the environment does not fit the settings of the launcher.

    Otherwise a study would run in another way than the user expects, or wait for processes that do
    not exist.
    """
    for name, title in UNUSED.items():
        if _is_on(environment, name):
            raise ConfigError(
                f"accelerate is told to use {title} ({name}), which a study does not: launch with"
                " --multi_gpu, or with --use_fsdp --fsdp_version 2 to divide the model"
            )
    for name in (name for name in RANKS if not environment.get(name, "0").isdecimal()):
        raise ConfigError(f"{name} is {environment[name]!r}, and must be a number; unset it")
    ranked = any(name in environment for name in RANKS)
    if sharding(environment) and not ranked:
        raise ConfigError(
            "accelerate is told to use FSDP (ACCELERATE_USE_FSDP), but RANK is not set: start the"
            " processes with `accelerate launch --use_fsdp --fsdp_version 2` or torchrun"
        )
    if "ACCELERATE_USE_CPU" in environment and "MASTER_PORT" in environment and not ranked:
        raise ConfigError(
            "accelerate launch was told to start several processes and has started one: add"
            " --multi_gpu, which it needs on a CPU too, and leave out --cpu"
        )
    _check_world_size(environment, ranked)


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("1", "true", "yes", "on")


def _check_world_size(environment: Mapping[str, str], ranked: bool) -> None:
    """Raise ConfigError if WORLD_SIZE is not a number of processes, or no rank is set beside it."""
    size = environment.get("WORLD_SIZE")
    if size is None:
        return
    if not size.isdecimal() or int(size) < 1:
        raise ConfigError(f"WORLD_SIZE is {size!r}, and must be a number of processes; unset it")
    if int(size) > 1 and not ranked:
        raise ConfigError(
            f"WORLD_SIZE is {size}, but RANK is not set: start the processes with"
            " `accelerate launch --multi_gpu` or torchrun, or unset WORLD_SIZE"
        )
