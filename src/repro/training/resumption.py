"""Checkpoints of a running fine-tuning that is divided among processes, to resume it.

`torch.distributed.checkpoint` writes each process's share of the weights and of AdamW's moments as
safetensors, which hold no code. The seed determines the order of the facts. So the number of steps
is enough to resume, and the losses are those of a fine-tuning without interruption.
"""

import json
import shutil
import time
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from accelerate.utils import broadcast_object_list
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from repro import files
from repro.models.devices import in_first_process, processes
from repro.models.shards import parameters

MOMENTS = ("exp_avg", "exp_avg_sq")  # names of AdamW's two moments


class Resumption:
    """The checkpoints of one fine-tuning, in a folder of their own. Only the last one is kept."""

    def __init__(self, folder: Path, seconds: float = 600):
        """Take the folder, and the seconds between two checkpoints."""
        self.folder, self.seconds = folder, seconds
        self._written = time.monotonic()

    def load(self, network, optimizer: torch.optim.Optimizer, schedule) -> list[float]:
        """Load the last checkpoint into a network, its optimizer and its schedule.

        Returns:
            The losses of the steps before the checkpoint; none if there is no checkpoint.
        """
        last = in_first_process(self._last)
        if last is None:
            return []
        path, progress = last
        losses, rates = progress["losses"], progress["rates"]
        _begin_moments(optimizer, len(losses))
        state = _tensors(network, optimizer)
        dcp.load(state, storage_reader=HuggingFaceStorageReader(str(path)))
        counts = {"last_epoch": len(losses), "_step_count": len(losses) + 1}
        schedule.load_state_dict({**counts, "_last_lr": rates, "lr_lambdas": [None] * len(rates)})
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return losses

    def keep(self, network, optimizer, schedule, losses: list[float]) -> None:
        """Write a checkpoint if one is due by the clock of the first process."""
        (due,) = broadcast_object_list([time.monotonic() - self._written >= self.seconds])
        if due:
            self._write(network, optimizer, schedule, losses)
            self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the checkpoints of a fine-tuning that is finished."""
        if processes().is_main_process:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _last(self) -> tuple[Path, dict] | None:
        """Return the last complete checkpoint: its folder, and its losses and learning rates."""
        complete = sorted(self.folder.glob("step-*/progress.json"))
        if not complete:
            return None
        return complete[-1].parent, json.loads(complete[-1].read_text(encoding="utf-8"))

    def _write(self, network, optimizer, schedule, losses: list[float]) -> None:
        """Write a checkpoint and delete older ones. It is complete once `progress.json` exists."""
        path = self.folder / f"step-{len(losses):08d}"
        state = _tensors(network, optimizer)
        if processes().is_main_process:
            shutil.rmtree(path, ignore_errors=True)  # left by a process that was killed
            path.mkdir(parents=True)
        processes().wait_for_everyone()
        # One file for each parameter, because a file is assembled in memory before it is written.
        names = list(parameters(network))
        numbers = {name: names.index(name.partition("|")[2]) + 1 for name in state}
        writer = HuggingFaceStorageWriter(str(path), numbers, save_distributed=True)
        dcp.save(state, storage_writer=writer)
        processes().wait_for_everyone()
        if processes().is_main_process:
            progress = {"losses": losses, "rates": schedule.get_last_lr()}
            files.write_atomic(path / "progress.json", json.dumps(progress))
            for older in self.folder.glob("step-*"):
                if older != path:
                    shutil.rmtree(older, ignore_errors=True)


def _tensors(network, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint: every parameter and its moments, by name."""
    state = {f"weight|{name}": p.detach() for name, p in parameters(network).items()}
    for name, parameter in parameters(network).items():
        state |= {f"{m}|{name}": optimizer.state[parameter][m] for m in MOMENTS}
    return state


def _begin_moments(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Give AdamW the state after a number of steps, with moments of zeros to be overwritten."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device),
                **{moment: torch.zeros_like(parameter).detach() for moment in MOMENTS},
            }
