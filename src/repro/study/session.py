"""A model in memory, and what is done with it whatever is studied: a bar, copies, a record."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import pandas as pd
import torch
from tqdm import tqdm

from repro import provenance
from repro.models import devices, loading, registry
from repro.restoration import restore
from repro.study import records
from repro.study.requests import Request


class Bench:
    """Float32 weights to train, and a copy in the fastest dtype to decode; loaded on first use."""

    def __init__(self, model: registry.ModelEntry, profile: str, bars: bool = True):
        """Take a model, the profile its records are made under, and whether to show progress."""
        self.model, self.profile, self.bars = model, profile, bars
        self.processes = devices.processes()

    def bar(self, total: int, text: str, unit: str, leave: bool = False) -> tqdm:
        """Return a progress bar, shown by the first process only."""
        silent = not (self.bars and self.processes.is_main_process)
        return tqdm(total=total, desc=text, unit=unit, leave=leave, disable=silent)

    @contextmanager
    def steps(self, total: int, text: str) -> Iterator[Callable[[float], None]]:
        """Show a bar of the steps of fine-tuning, to be told the loss of each."""
        with self.bar(total, text, "step") as bar:

            def show(loss: float) -> None:
                bar.set_postfix_str(f"loss {loss:.3f}")
                bar.update()

            yield show

    @cached_property
    def _loaded(self):
        return loading.load_model(self.model)

    @property
    def network(self):
        """The float32 network that is trained."""
        return self._loaded[0]

    @property
    def tokenizer(self):
        """Its tokenizer."""
        return self._loaded[1]

    @cached_property
    def decoder(self):
        """The network that decodes: the trained one itself where float32 is fastest."""
        dtype = devices.inference_dtype(self.network.device)
        return self.network if dtype is torch.float32 else loading.load_model(self.model, dtype)[0]

    @cached_property
    def base(self) -> dict[str, torch.Tensor]:
        """The weights before fine-tuning."""
        return restore.snapshot(self.network)

    def save(
        self, task: Request, result: dict, seconds: float, table: pd.DataFrame | None = None
    ) -> None:
        """Write a record, of what took some `seconds`, and a table beside it."""
        where = provenance.provenance(
            wall_seconds=seconds,
            model=self.model.name,
            profile=self.profile,
            device=str(self.network.device),
            processes=self.processes.num_processes,
            dtype=str(self.decoder.dtype).removeprefix("torch."),
        )
        key = provenance.key(task.kind, task.params)
        if self.processes.is_main_process:
            records.save(records.Record(task.kind, key, task.params, result, where), table)
        self.processes.wait_for_everyone()  # the next step may read it
