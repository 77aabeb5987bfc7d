"""What a study would cost, before it starts: records, tokens, time, memory, disk."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from repro import paper
from repro.errors import ConfigError
from repro.measures import mastery
from repro.models import gguf, launch, registry
from repro.study import workers
from repro.study.choice import selected_facts
from repro.study.gpu_plan import EXAMPLE_TOKENS
from repro.study.requests import Request, missing
from repro.study.study import Study

if TYPE_CHECKING:  # it loads PyTorch, and a plan without anything missing needs no calibration
    from repro.study.calibration import Speed

RECORD_BYTES = 3_000  # of a typical record on disk
LIBRARIES = 700 << 20  # bytes of a process that has PyTorch and transformers loaded
LARGE = 10**9  # parameters from which a model may be too large for the machine


def plan(study: Study, speed: Speed | None = None) -> pd.DataFrame:
    """List what a study needs and what of it is missing, by kind of record.

    Before mastery is measured, the facts are taken to have the levels of the sample that
    `calibrate` measured; without it every level is taken to hold facts enough for every size, so
    that the list is an upper bound.

    Args:
        study: a model under a profile.
        speed: from `repro.study.calibration.calibrate`; None leaves the time at 0.

    Returns:
        DataFrame[kind, records, missing, tokens (generated or trained on, at most),
        seconds, bytes]; the last three count what is missing only.
    """
    cost = _Cost(study, speed)
    requests = cost.study.all_requests()
    keys_without_record = {request.key for request in missing(requests)}
    # A run with any record missing is fine-tuned again, also where its own record exists.
    again = {r.run for r in requests if r.key in keys_without_record and r.run is not None}
    rows = []
    for request in requests:
        needed = request.key in keys_without_record
        trained = request.kind == "finetune" and request.run in again
        rows.append(cost.row(request, needed, needed or trained))
    table = pd.DataFrame(rows).groupby("kind", sort=False).sum().reset_index()
    if speed and speed.small and keys_without_record:
        blocks = workers.how_many(sum(cost.split_sizes.values()) // mastery.BLOCK)
        runs = workers.how_many(len(again))
        table["seconds"] /= [blocks if kind == "mastery" else runs for kind in table["kind"]]
    return table


class _Cost:
    """What the records of one study cost."""

    def __init__(self, study: Study, speed: Speed | None):
        """Take a study and a speed; mastery that is not measured is assumed."""
        self.study, self.speed = study, speed
        if not _is_measured(study):
            shares = speed.levels if speed else dict.fromkeys(paper.LEVELS, 1.0)
            train = self.split_sizes["train"]
            assumed = {level: round(share * train) for level, share in shares.items()}
            self.study = replace(study, assumed=assumed)

    @cached_property
    def split_sizes(self) -> dict[str, int]:
        """The number of facts of each split."""
        if self.study.choice:
            return self.study.choice.split_sizes()
        chosen = selected_facts(self.study)
        return chosen["split"].value_counts().reindex(paper.SPLITS, fill_value=0).to_dict()

    def row(self, request: Request, missing: bool, computed: bool) -> dict:
        """Return the row of one record: what it costs, if it is computed at all."""
        work = self._work(request) if computed else {}
        tokens = work.pop("tokens", 0)
        times = asdict(self.speed) if self.speed else {}
        if "answer" in work:  # as long as the request says, or as a typical answer
            work["token"] = work["question"] * min(work.pop("answer"), times.get("answer", 0))
        seconds = sum(times.get(name, 0) * number for name, number in work.items())
        counted = {"records": 1, "missing": int(missing), "tokens": tokens, "seconds": seconds}
        return {"kind": request.kind, **counted, "bytes": RECORD_BYTES * missing}

    def _work(self, request: Request) -> dict:
        """Return how often each kind of timed work occurs in a record, and the tokens."""
        if request.kind == "score":
            candidates, _ = self.study.choice.to_score()
            statements = len(candidates) * len(request.params["protocol"]["templates"])
            return {"scored": len(candidates), "tokens": EXAMPLE_TOKENS * statements}
        if request.kind == "mastery":
            protocol = self.study.profile.protocol(self.study.seed)
            number = sum(self.split_sizes.values())
            return {"fact": number, "tokens": number * protocol.trials * protocol.max_new_tokens}
        if request.kind == "finetune":
            size = self.study.grid.size(request.run)
            return {"tuning": 1, "sample": size, "tokens": EXAMPLE_TOKENS * size}
        if request.kind in ("accuracy", "instruct"):
            return self._answers(request)
        if request.kind in ("concentration", "where"):
            return {"ranking": 1}
        return {"question": 1}

    def _answers(self, request: Request) -> dict:
        split, limit = request.params["split"], request.params["max_new_tokens"]
        asks_training_facts = split == "train"  # asked are the facts that the run was trained on
        number = (
            self.study.grid.size(request.run) if asks_training_facts else self.split_sizes[split]
        )
        # Four splits are answered together: a share is restored once for all of them.
        restored = {"restoring": 1 / 4} if request.params.get("restore") else {}
        length = {"answer": limit} if request.run else {"token": number * limit}
        return {"question": number, "tokens": number * limit, **length, **restored}


def _is_measured(study: Study) -> bool:
    """Tell whether mastery is there, and the scores by which facts are chosen before it."""
    scored = study.choice is None or study.choice.request().record()
    return bool(scored and study.requests.mastery().record())


def memory(study: Study) -> int:
    """Return the most bytes of memory a run takes at a time, about.

    Float32 weights: those that are trained and the pre-trained ones to go back to. Beside them, as
    long as it trains, gradients and AdamW's two moments; later the fine-tuned ones, a copy that
    decodes where the study is in bfloat16, and what a batch of decoding may take. The workers that
    share the study of a small model take as much each.
    """
    # Imported on use: these load PyTorch.
    from repro.inference import kv_cache
    from repro.models import devices

    device, parameters = devices.best_device(), study.model.parameters or 0
    copy = 2 if study.number_format.name == "bfloat16" else 0  # bytes of a parameter that decodes
    trains, decodes = 5 * 4 * parameters, (3 * 4 + copy) * parameters + kv_cache.BUDGET
    one = max(trains, decodes) + LIBRARIES
    small = device.type == "cpu" and 0 < parameters <= devices.SMALL_MODEL
    number = workers.how_many(sys.maxsize) if small else 1
    return one * number + (LIBRARIES if number > 1 else 0)


def check_fits(name: str | Path) -> None:
    """Raise ConfigError if a model of the registry cannot be fine-tuned or answer on this machine.

    It is asked before anything is read or downloaded, so it knows the number of parameters alone;
    of a folder, which is here already, it says nothing.
    """
    model = registry.entries().get(str(name))
    if model is None or (model.parameters or 0) < LARGE:
        return
    from repro.models import devices

    how, sharing = launch.sharding(), devices.processes()
    if sharing.device.type == "cuda":
        _check_gpus(model, how, sharing)
        return
    import psutil

    # All processes of a machine share its memory.
    needed = (16 if how else 20 * sharing.num_processes) * model.parameters
    if needed > (here := psutil.virtual_memory().total):
        raise ConfigError(
            f"{model.name} needs {needed / 1e9:,.0f} GB of memory to be fine-tuned, and this"
            f" machine has {here / 1e9:,.0f}: `repro plan {model.name} --gpus 8` says what it takes"
            " on GPUs"
        )


def _check_gpus(model: registry.ModelEntry, how: launch.Sharding | None, sharing) -> None:
    """Raise ConfigError if the GPUs of this launch are too small for a model."""
    import psutil
    import torch

    from repro.study import gpu_plan

    memory = torch.cuda.get_device_properties(sharing.device).total_memory
    if how and model.name in gpu_plan.ARCHITECTURES:
        host = psutil.virtual_memory().total
        machine = gpu_plan.Machine(sharing.num_processes, memory, host)
        gpu_plan.check(model, machine, how.offload)
    elif not how and 22 * model.parameters > memory:
        raise ConfigError(
            f"{model.name} needs {22 * model.parameters / 1e9:,.0f} GB on each GPU that holds it"
            f" whole, and this one has {memory / 1e9:,.0f}: divide it, with accelerate launch"
            " --use_fsdp --fsdp_version 2 (`repro plan --gpus` says on how many)"
        )


def model_bytes(study: Study) -> int:
    """Return the bytes a first run adds to the cache for the model itself (float32)."""
    model = study.model
    return 4 * model.parameters if model.gguf and not gguf.converted_folder(model).exists() else 0
