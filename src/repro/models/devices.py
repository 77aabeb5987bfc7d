"""Devices, the processes of a launch, and the number format that is fastest on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from repro import files, provenance
from repro.errors import ReproError, StoreError
from repro.models.launch import check_launch

if TYPE_CHECKING:  # PyTorch is loaded when a function needs it
    from collections.abc import Callable, Iterable

    import torch
    from accelerate import PartialState

    Shape = tuple[int, int]  # (outputs, inputs) of a weight matrix

SMALL_MODEL = 20_000_000  # up to so many parameters float32 is always the faster format
FORMATS = ("float32", "bfloat16")  # of the weights and states in a matrix product
ROWS = 256  # rows of states in the product with a weight that is timed
WIDEST = 4096  # of a larger weight, a part with so many rows and columns is timed
ROUNDS = 5  # the fastest round counts, because other work on the machine slows some rounds down


def processes() -> PartialState:
    """Return accelerate's view of the processes that share the work; without a launcher, of one.

    Raises:
        ConfigError: the launcher has settings that would be ignored (`launch.check_launch`).
    """
    import torch
    from accelerate import PartialState

    check_launch()
    # With this setting transformers would load weights in the first process only, and the others
    # would compute with uninitialised memory.
    os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)
    # On a CPU accelerate must be told so; otherwise the processes do not find one another.
    return PartialState(cpu=not torch.accelerator.is_available())


def in_first_process(function: Callable[[], Any]) -> Any:
    """Call a function in the first of several processes, and return its value in all of them.

    It serves functions that read a folder, because on another machine the folder may hold other
    files.

    Raises:
        ReproError: what the function raised, in all processes.
    """
    check_launch()  # `WORLD_SIZE` may be no number
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return function()
    from accelerate.utils import broadcast_object_list

    outcome = [None, None]  # value, error
    if processes().is_main_process:
        try:
            outcome[0] = function()
        except ReproError as error:
            outcome[1] = error
    value, error = broadcast_object_list(outcome)
    if error is not None:
        raise error
    return value


def best_device() -> torch.device:
    """Return this process's accelerator if there is one, else the CPU."""
    return processes().device


def free_memory(device: torch.device) -> int:
    """Return the bytes of a GPU that can be taken: free ones, and those PyTorch keeps for reuse."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def least_of_processes(number: int) -> int:
    """Return the smallest of the numbers that the processes of a launch give; all must call it."""
    if processes().num_processes < 2:
        return number
    from accelerate.utils import gather_object

    return min(gather_object([number]))


def inference_dtype(
    device: torch.device | None = None, shapes: Iterable[Shape] = (), keep: bool = True
) -> torch.dtype:
    """Return the faster of float32 and bfloat16 on a device.

    On a CPU both are timed with weights of these shapes, because the processor's flags do not tell:
    with `avx512_bf16` bfloat16 is twice as fast on one processor and half as fast on another. The
    times are stored in the cache folder, by machine, number of threads and shapes.

    Args:
        device: by default `best_device()`.
        shapes: of the model's weight matrices. Without any, bfloat16 is chosen only on a CPU with
            AMX tiles, which always multiply it faster.
        keep: whether to write the times to the cache folder.
    """
    import torch

    device, shapes = device or best_device(), frozenset(map(tuple, shapes))
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type != "cpu":
        return torch.float32
    if not shapes:
        tiles = torch.cpu.get_capabilities().get("amx_bf16")
        return torch.bfloat16 if tiles else torch.float32
    seconds = _seconds_by_format(shapes, torch.get_num_threads(), keep)
    return getattr(torch, min(FORMATS, key=seconds.__getitem__))


@cache
def _seconds_by_format(shapes: frozenset[Shape], threads: int, keep: bool) -> dict[str, float]:
    """Return the seconds that products of these shapes take in each format, timed once."""
    sizes = sorted({(min(rows, WIDEST), min(columns, WIDEST)) for rows, columns in shapes})
    import torch

    settings = [provenance.machine(), torch.__version__, threads, ROWS, sizes]
    name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    path = files.cache_dir() / "number_formats" / f"{name}.json"
    try:
        measured = json.loads(path.read_bytes())["seconds"]
        return {name: float(measured[name]) for name in FORMATS}
    except (OSError, ValueError, KeyError, TypeError):  # not measured yet, or damaged
        seconds = _measure(sizes)
    if not keep:
        return seconds
    with suppress(StoreError):  # if the cache cannot be written, the next process measures again
        files.write_atomic(path, json.dumps({"settings": settings, "seconds": seconds}) + "\n")
    return seconds


def _measure(sizes: list[Shape]) -> dict[str, float]:
    """Time the product with a weight of each size, in each format in turn."""
    import torch
    from torch.nn.functional import linear

    total = dict.fromkeys(FORMATS, 0.0)
    with torch.inference_mode():
        for outputs, inputs in sizes:
            states, weight = torch.ones(ROWS, inputs), torch.ones(outputs, inputs)
            in_float32 = states, weight
            operands = {name: [x.to(getattr(torch, name)) for x in in_float32] for name in total}
            fastest = dict.fromkeys(FORMATS, float("inf"))
            for _ in range(ROUNDS):
                for name, pair in operands.items():
                    start = time.perf_counter()
                    linear(*pair)
                    fastest[name] = min(fastest[name], time.perf_counter() - start)
            for name in FORMATS:
                total[name] += fastest[name]
    return total
