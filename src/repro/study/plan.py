"""Estimates the cost of a study before it starts: records, tokens, time, memory, disk."""

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
LARGE = 10**9  # parameters from which it is checked that a model fits the machine


def plan(study: Study, speed: Speed | None = None) -> pd.DataFrame:
    """Return the numbers of all and of missing records of a study, with their cost, by kind.

    Before mastery is measured, levels are assumed to be distributed as in the sample that
    `calibrate` measured. Without this sample every level is assumed to have enough facts for every
    size, so the numbers are an upper bound.

    Args:
        study: a model under a profile.
        speed: from `repro.study.calibration.calibrate`; None leaves the time at 0.

    Returns:
        DataFrame[kind, records, missing, tokens (the most that are generated or trained on),
        seconds, bytes]; the last three are of missing records only.
    """
    cost = _Cost(study, speed)
    requests = cost.study.all_requests()
    keys_without_record = {request.key for request in missing(requests)}
    # A run with a missing record is fine-tuned again, even if the record of its training exists.
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
    """The cost of the records of one study."""

    def __init__(self, study: Study, speed: Speed | None):
        """Take a study and a speed. If mastery is not measured, levels are assumed."""
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
        """Return the row of one record. It costs nothing if it is not computed."""
        work = self._work(request) if computed else {}
        tokens = work.pop("tokens", 0)
        times = asdict(self.speed) if self.speed else {}
        if "answer" in work:  # of the longest or of a typical length, whichever is less
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
        """Return the work of a record of answers, as `_work`."""
        split, limit = request.params["split"], request.params["max_new_tokens"]
        of_run = split == "train"  # the questions about the facts that the run was trained on
        number = self.study.grid.size(request.run) if of_run else self.split_sizes[split]
        # Four splits are answered together: a share is restored once for all of them.
        restored = {"restoring": 1 / 4} if request.params.get("restore") else {}
        length = {"answer": limit} if request.run else {"token": number * limit}
        return {"question": number, "tokens": number * limit, **length, **restored}


def _is_measured(study: Study) -> bool:
    """Tell whether mastery has a record, and the scores, if facts are chosen by score."""
    scored = study.choice is None or study.choice.request().record()
    return bool(scored and study.requests.mastery().record())


def memory(study: Study) -> int:
    """Return about how many bytes of memory a run takes at most.

    The float32 weights are in memory twice: those that are trained, and the pre-trained ones.
    During training, gradients and AdamW's two moments come on top; later, the fine-tuned weights, a
    copy that decodes if the study is in bfloat16, and the memory of a batch of decoding. Each of
    the workers that share the study of a small model takes as much.
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
    """Raise ConfigError if a model of the registry is too large for this machine.

    This is called before anything is read or downloaded, so only the number of parameters is known.
    A model in a folder is not checked.
    """
    model = registry.entries().get(str(name))
    if model is None or (model.parameters or 0) < LARGE:
        return
    from repro.models import devices

    sharding, sharing = launch.sharding(), devices.processes()
    if sharing.device.type == "cuda":
        _check_gpus(model, sharding, sharing)
        return
    import psutil

    # All processes of a machine share its memory.
    needed = (16 if sharding else 20 * sharing.num_processes) * model.parameters
    if needed > (memory_here := psutil.virtual_memory().total):
        raise ConfigError(
            f"{model.name} needs {needed / 1e9:,.0f} GB of memory to be fine-tuned, and this"
            f" machine has {memory_here / 1e9:,.0f}:"
            f" `repro plan {model.name} --gpus 8` says what it takes on GPUs"
        )


def _check_gpus(model: registry.ModelEntry, sharding: launch.Sharding | None, sharing) -> None:
    """Raise ConfigError if the GPUs of this launch are too small for a model."""
    import psutil
    import torch

    from repro.study import gpu_plan

    memory = torch.cuda.get_device_properties(sharing.device).total_memory
    if sharding and model.name in gpu_plan.ARCHITECTURES:
        host = psutil.virtual_memory().total
        machine = gpu_plan.Machine(sharing.num_processes, memory, host)
        gpu_plan.check(model, machine, sharding.offload, sharding.tensor_parallel)
    elif not sharding and 22 * model.parameters > memory:
        raise ConfigError(
            f"{model.name} needs {22 * model.parameters / 1e9:,.0f} GB on each GPU that holds it"
            f" whole, and this one has {memory / 1e9:,.0f}: divide it, with accelerate launch"
            " --use_fsdp --fsdp_version 2 (`repro plan --gpus` says on how many)"
        )


def model_bytes(study: Study) -> int:
    """Return the bytes a first run adds to the cache for the model itself (float32)."""
    model = study.model
    return 4 * model.parameters if model.gguf and not gguf.converted_folder(model).exists() else 0
