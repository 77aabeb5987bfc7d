"""Devices, processes and the number format that is fastest on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # PyTorch is loaded when a function needs it
    import torch
    from accelerate import PartialState


def processes() -> PartialState:
    """Return accelerate's view of the processes that share the work: one, unless launched so."""
    import torch
    from accelerate import PartialState

    # Without an accelerator accelerate must be told, or launched processes ignore one another.
    return PartialState(cpu=not torch.accelerator.is_available())


def best_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU; each process of several has its own."""
    return processes().device


def inference_dtype(device: torch.device | None = None) -> torch.dtype:
    """Return bfloat16 where the processor is faster in it than in float32, else float32.

    On a CPU that needs AMX tiles: a bfloat16 matrix product takes about twice as long as a
    float32 one with the AVX-512 instructions alone, and five times or more without those.
    """
    import torch

    device = device or best_device()
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16"):
        return torch.bfloat16
    return torch.float32
