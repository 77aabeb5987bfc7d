"""What a launcher was told, read from the environment: refused where it would not be done."""

from __future__ import annotations

import os
from collections.abc import Mapping

from repro.errors import ConfigError

# Ways to share a model that accelerate takes from its configuration. On a CPU it ignores them
# without a word, and a model in parts can be neither decoded nor restored here.
SHARED_MODELS = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
# What tells a process which one of several it is; MPI has names of its own.
RANKS = ("RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")


def check_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError where this process is not what its launcher was told to start.

    Else a study would run in another way than asked, or wait for processes that never come.
    """
    for name, title in SHARED_MODELS.items():
        if environment.get(name, "").lower() in ("1", "true", "yes", "on"):
            raise ConfigError(
                f"accelerate is told to use {title} ({name}), which a study does not: every"
                " process holds the whole model; launch with --multi_gpu alone"
            )
    for name in (name for name in RANKS if not environment.get(name, "0").isdecimal()):
        raise ConfigError(f"{name} is {environment[name]!r}, and must be a number; unset it")
    ranked = any(name in environment for name in RANKS)
    if "ACCELERATE_USE_CPU" in environment and "MASTER_PORT" in environment and not ranked:
        raise ConfigError(
            "accelerate launch was told to start several processes and has started one: add"
            " --multi_gpu, which it needs on a CPU too, and leave out --cpu"
        )
    _check_world_size(environment, ranked)


def _check_world_size(environment: Mapping[str, str], ranked: bool) -> None:
    """Raise ConfigError if WORLD_SIZE is no number of processes, or says nothing of this one."""
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
