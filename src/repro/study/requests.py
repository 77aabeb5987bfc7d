"""Runs and requests: the settings of a fine-tuning, and the parameters of each record.

A request holds the complete parameters of one record before it is computed. So the missing records
are known without computing anything. The key of a record is a hash of these parameters, so kinds
and names of parameters never change their meaning.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from repro import paper, provenance
from repro.data import facts
from repro.measures import accuracy
from repro.measures.divergence import CANDIDATES, NEAR
from repro.models import architecture, devices, registry, weights
from repro.models.launch import STORED_FORMATS, Sharding
from repro.study import records
from repro.study.profiles import Profile
from repro.study.record_files import record_name
from repro.training.recipe import Adapter, Recipe

VERSION = 2  # part of every key: raised when a change to the code changes results
# The version of the rule by which a completion contains an object: spellings count as the same.
MATCH = 2
# Models whose records by the first version of this rule are valid for the second. None of their
# completions that were judged again has another result (`benchmarks/spellings.py`, on 2,520 and 210
# of them), and the micro models cannot write the characters in question. So the version is not in
# their keys.
FIRST_MATCH = ("micro-s", "micro-m", "micro-l", "smollm2-135m", "gemma-3-270m")
MIXED = -2  # "level" of a run on facts of all levels
BASE = -1  # "level" of the pre-trained model, which no run has changed
REGION = "transformer"  # the region that is restored (§5)
SHARDED_FROM = 10**9  # parameters of a model from which records of sharded fine-tunings are tried
MOST_PROCESSES = 64  # the most processes of such a record
ANSWERED = ("dev", "test", "testood")  # splits whose questions a strategy of Table 7 answers


@dataclass(frozen=True)
class Run:
    """The settings of one fine-tuning.

    Attributes:
        level: the mastery level of the training facts; `MIXED`: of all levels.
        size: the number of training facts; None: all of the level.
        sample: the number of the data sample.
        learning_rate: of the fine-tuning.
        rank: above 0, adapters of this rank (LoRA) are trained instead of all parameters.
    """

    level: int
    size: int | None
    sample: int
    learning_rate: float
    rank: int = 0


@dataclass(frozen=True)
class Request:
    """The request for a record.

    Attributes:
        kind: of the record.
        params: its complete parameters.
        run: the `Run` that it is measured on (for GSM8K and XSum the name of the task); None: the
            pre-trained model.
    """

    kind: str
    params: dict = field(hash=False)
    run: Any = None

    @cached_property
    def key(self) -> str:
        """The key of the record (`repro.provenance.key`)."""
        return provenance.key(self.kind, self.params)

    @property
    def name(self) -> str:
        """The name of the record (`repro.study.record_files.record_name`)."""
        return record_name(self.kind, self.key)

    def record(self) -> records.Record | None:
        """Return the finished record, or None."""
        return records.load(self.kind, self.params)


def missing(requests: Iterable[Request]) -> list[Request]:
    """Return the requests without a record. Raises StoreError as in `records.load`."""
    requests = list(requests)
    absent = devices.in_first_process(lambda: [r.record() is None for r in requests])
    return [request for request, is_absent in zip(requests, absent, strict=True) if is_absent]


def finished(requests: Iterable[Request]) -> list[records.Record]:
    """Return the records of those requests that have one. Raises StoreError as in `missing`."""
    return [record for record in (request.record() for request in requests) if record]


def source(model: registry.ModelEntry, profile: Profile, data: Path | None, seed: int) -> dict:
    """Return the parameters that every record of a study shares: version, weights, facts, seed."""
    identity = weights.weights_id(model)
    first = weights.is_among(identity, FIRST_MATCH)
    return {
        "version": VERSION,
        **({} if first else {"match": MATCH}),
        "weights": identity,
        "data": facts.data_hash(data, model.facts),
        "facts": {split: profile.facts[split] for split in paper.SPLITS},
        "seed": seed,
    }


def _recorded_sharding(params: dict) -> dict:
    """Return the parameters of sharding with which a fine-tuning is recorded; empty if it is not.

    So a process that is not sharded finds the records of a sharded fine-tuning, to read them. Those
    of more than `MOST_PROCESSES` processes are not found.
    """
    for number in range(1, MOST_PROCESSES + 1):
        for stored in STORED_FORMATS:
            sharding = Sharding(stored=stored).parameters(number)
            if Request("finetune", {**params, **sharding}).record():
                return sharding
    return {}


class Requests:
    """Makes the requests of one study: of single records, and of all records of a table."""

    def __init__(
        self,
        model: registry.ModelEntry,
        profile: Profile,
        shared: dict,
        compared_level: Callable[[], int],
        launched: Sharding | None = None,
    ):
        """Take the parts of a study.

        Args:
            model: the model that is studied.
            profile: the sizes of the study.
            shared: the parameters that `source` returned.
            compared_level: returns the level whose facts §4.1 compares. It is called when it is
                needed, because the level is known only once mastery is measured.
            launched: how this launch divides a fine-tuning among processes; None: it does not.
        """
        self.model, self.profile, self.source = model, profile, shared
        self.compared_level = compared_level
        self._sharding = launched.parameters(devices.processes().num_processes) if launched else {}
        self._parents: dict[Run | None, dict] = {}

    def mastery(self) -> Request:
        """Request the measurement of R_k for every fact (§3.1)."""
        protocol = asdict(self.profile.protocol(self.source["seed"]))
        return Request("mastery", {**self.source, "protocol": protocol})

    def finetune(self, run: Run) -> Request:
        """Request the fine-tuning, whose record holds the loss curve."""
        recipe = Recipe(learning_rate=run.learning_rate, seed=self._seed(run))
        drawn: dict[str, Any] = {"level": run.level, "size": run.size, "sample": run.sample}
        if run.rank:
            adapter = Adapter(run.rank, modules=architecture.adapted_modules(self.model))
            drawn |= {"lora": asdict(adapter) | {"modules": list(adapter.modules)}}
        params = {**self.source, "mastery": self.mastery().key, **drawn}
        params |= {"recipe": asdict(recipe)}
        if not self._sharding and (self.model.parameters or 0) >= SHARDED_FROM:
            self._sharding = _recorded_sharding(params)
        return Request("finetune", {**params, **self._sharding}, run)

    def accuracy(
        self,
        run: Run | None,
        split: str,
        percent: float = 0.0,
        strategy: str = "top",
        layers: str = "",
    ) -> Request:
        """Request the answers to a split's questions after restoring a share (§3.3, §5)."""
        params = {**self._parent(run), "split": split, "max_new_tokens": accuracy.MAX_NEW_TOKENS}
        restoration = {"percent": float(percent), "region": REGION, "strategy": strategy}
        if strategy == "random":  # other parameters in every data sample
            restoration |= {"seed": self._seed(run)}
        if layers:
            restoration |= {"layers": layers}
        return Request("accuracy", {**params, "restore": restoration if percent else None}, run)

    def instruct(self) -> list[Request]:
        """Request the answers of the model's instruct variant, if the profile has Table 7."""
        if not (self.model.instruct and self.profile.mixed_samples):
            return []
        variant = {"instruct": weights.weights_id(registry.entry(self.model.instruct))}
        params, limit = {**self._parent(None), **variant}, accuracy.MAX_NEW_TOKENS
        return [
            Request("instruct", {**params, "split": split, "max_new_tokens": limit})
            for split in ANSWERED
        ]

    def divergence(self, run: Run) -> Request:
        """Request the comparison of first-token logits with the pre-trained model's (§4.1)."""
        options = {"candidates": CANDIDATES, "near": NEAR, "level": self.compared_level()}
        return Request("divergence", {**self._parent(run), **options}, run)

    def concentration(self, run: Run) -> Request:
        """Request the shares of the change that the most changed parameters hold (Table 3)."""
        options = {
            "region": REGION,
            "percents": self.profile.restored_percents,
            "without_zero_base": True,
        }
        return Request("concentration", {**self._parent(run), **options}, run)

    def locations(self, run: Run) -> Request:
        """Request the layers and modules of the most changed parameters (Tables 9 and 10)."""
        options = {"region": REGION, "percents": self.profile.restored_percents}
        return Request("where", {**self._parent(run), **options}, run)

    # --- what a table needs of one run --------------------------------------------------------

    def learning_rate(self, run: Run) -> list[Request]:
        """Return the requests that try one learning rate."""
        return [self.finetune(run), self.accuracy(run, "dev")]

    def strategy(self, run: Run) -> list[Request]:
        """Return the requests of Table 7 for a run on facts of all levels."""
        return [self.finetune(run), *(self.accuracy(run, split) for split in ANSWERED)]

    def restoration(self, run: Run, percents: Iterable[float]) -> list[Request]:
        """Return the requests of Tables 4 and 6."""
        splits = ("dev", "test", "testood", "train")
        return [self.accuracy(run, split, x) for x in percents for split in splits]

    def controls(self, run: Run) -> list[Request]:
        """Return the requests of the controls: the same shares, chosen by other rules."""
        strategies, percents = self.profile.controls, self.profile.control_percents
        return [self.accuracy(run, "test", x, s) for s in strategies for x in percents]

    def layers(self, run: Run) -> list[Request]:
        """Return the requests of Table 11: with nothing restored, and with each group of layers."""
        groups, splits = self.layer_groups(), ("test", "testood")
        unrestored = [self.accuracy(run, split) for split in splits if groups]
        return unrestored + [
            self.accuracy(run, split, 100.0, layers=group) for group in groups for split in splits
        ]

    def layer_groups(self) -> list[str]:
        """Return the groups of layers that are restored, such as `0-3`, or `0` for one layer."""
        if not self.profile.layer_blocks:
            return []
        number = architecture.layer_count(self.model)
        parts = np.array_split(range(number), min(self.profile.layer_blocks, number))
        return [f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts]

    def _seed(self, run: Run | None) -> int:
        return self.source["seed"] * 1000 + (run.sample if run else 0)

    def _parent(self, run: Run | None) -> dict:
        # Stored, because a key takes longer to make than the rest of a request.
        if run not in self._parents:
            parent = self.finetune(run) if run else self.mastery()
            self._parents[run] = {**self.source, parent.kind: parent.key}
        return self._parents[run]
