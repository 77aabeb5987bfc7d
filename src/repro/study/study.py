"""The study of a model under a profile (§3.3).

`Study` puts the parts together: `grid` has the runs, `requests` makes the complete parameters of
each record, `results` makes frames of records, and `repro.study.compute` computes missing records
with a model that stays in memory from one call to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from repro import files, paper
from repro.errors import ConfigError, StoreError
from repro.measures import mastery
from repro.models import devices, launch, registry
from repro.study import engines, number_format, profiles, records
from repro.study.choice import Choice
from repro.study.grid import Grid
from repro.study.number_format import NumberFormat
from repro.study.pools import Pools
from repro.study.profiles import Profile
from repro.study.requests import Request, Requests, finished, missing, source
from repro.study.results import Results
from repro.study.schedule import Part, of_part

if TYPE_CHECKING:  # it loads PyTorch
    from repro.study.compute import FactComputation

BEFORE_RUNS = ("score", "mastery")  # kinds of records that all runs depend on
IN_MEMORY = ("computation", "results")  # parts of a study that are not sent to other processes


@dataclass(frozen=True)
class Study:
    """A model under a profile. Open one with `repro.study.open_study`.

    Attributes:
        model: the entry of the registry.
        profile: the sizes of the study.
        data: the folder of EntityQuestions, if one was given.
        seed: of all random numbers.
        assumed: training facts by level, to plan a study before mastery is measured.
        dtype: the number format that the user chose (`repro.study.number_format`).
        engine: what answers questions (`repro.study.engines`).
        start: makes the object that computes requests, with a method `compute(requests, workers)`.
    """

    model: registry.ModelEntry
    profile: Profile
    data: Path | None = None
    seed: int = 0
    assumed: dict[int, int] | None = None
    dtype: str | None = None
    engine: str = engines.AUTO
    start: Callable[[Study], FactComputation] | None = field(default=None, compare=False)

    @cached_property
    def requests(self) -> Requests:
        """Makes the request for any record of this study."""
        shared = self._source | self.number_format.parameters
        return Requests(self.model, self.profile, shared, self.compared_level, launch.sharding())

    @cached_property
    def number_format(self) -> NumberFormat:
        """The number format in which the model is trained and answers."""
        if self.choice:
            return self.choice.number_format
        first = Requests(self.model, self.profile, self._source, self.compared_level).mastery()
        return number_format.choose(self.model, first.kind, first.params, self.dtype)

    @cached_property
    def _source(self) -> dict:
        """The parameters that all records share but the number format. Computes missing scores."""
        shared = source(self.model, self.profile, self.data, self.seed)
        shared |= engines.parameters(self.engine)
        if not self.choice:
            return shared
        if self.assumed is None:
            self.compute([self.choice.request()])
        return shared | self.choice.parameters(self.choice.request().record())

    @cached_property
    def choice(self) -> Choice | None:
        """The choice of facts by score, if the profile has one."""
        if not self.profile.choose:
            return None
        return Choice(self.model, self.profile, self.data, self.seed, self.dtype)

    @cached_property
    def pools(self) -> Pools:
        """The facts with their mastery. Computes mastery if it is missing."""
        request = self.requests.mastery()
        self.compute([request])
        hits = devices.in_first_process(lambda: records.load_table(*finished([request])))
        trials = self.profile.protocol(self.seed).trials
        return Pools(mastery.add_levels(hits, trials), self.seed)

    @cached_property
    def grid(self) -> Grid:
        """The runs that exist. Computes mastery if it is missing and nothing is assumed."""
        sizes = self.pools.sizes() if self.assumed is None else self.assumed
        # Adapters are trained on whole networks only. A launch that divides them has no such run.
        is_divided = launch.sharding() is not None
        profile = replace(self.profile, lora_samples=0) if is_divided else self.profile
        return Grid(profile, self.model.learning_rate, sizes)

    @cached_property
    def results(self) -> Results:
        """The records as frames."""
        return Results(self)

    @cached_property
    def computation(self) -> FactComputation:
        """The object that computes requests, and keeps the model in memory."""
        if self.start is None:
            raise ConfigError("this study only reads records: open it with `open_study`")
        return self.start(self)

    def compared_level(self) -> int:
        """Return the mastery level of the facts that §4.1 compares: 4 where there are enough."""
        return max(paper.LEVELS) if self.assumed is not None else self.pools.compared_level()

    def all_requests(self) -> list[Request]:
        """Return all requests of the profile that are known so far.

        Most records depend on mastery. Until it is measured, or levels are assumed, only its own
        request is known. If facts are chosen by score, mastery depends on the scores in the same
        way.
        """
        scores = [self.choice.request()] if self.choice else []
        if self.assumed is None and missing(scores):
            return scores
        first = self.requests.mastery()
        is_known = self.assumed is not None or not missing([first])
        rest = self.grid.requests(self.requests) if is_known else []
        return [*scores, first, *rest]

    def compute(self, requests: Iterable[Request], workers: int | None = None) -> int:
        """Compute and store the missing records of some requests, and return their number.

        If none is missing, no model is loaded. `workers` is the number of processes that share the
        runs of a small model, by default one for each core.
        """
        absent = missing(requests)
        return self.computation.compute(absent, workers) if absent else 0

    def run(self, workers: int | None = None, part: Part | None = None) -> int:
        """Compute all missing records of the profile and return how many were computed here.

        Args:
            workers: processes that share the runs of a small model; by default one for each core.
            part: compute only this part: some of the blocks of mastery, and some of the runs. The
                runs depend on mastery, so they are computed once all parts have counted their
                blocks.
        """
        computed = self.compute([self.choice.request()] if self.choice else [], workers)
        mastery_request = self.requests.mastery()
        if part and missing([mastery_request]):
            computed += self.computation.count_part(mastery_request, part, workers)
            if missing([mastery_request]):
                return computed
        computed += self.compute([mastery_request], workers)
        rest = [request for request in self.all_requests() if request.kind not in BEFORE_RUNS]
        return computed + self.compute(of_part(rest, part) if part else rest, workers)

    def records(self) -> pd.DataFrame:
        """Return the origin of each record: kind, key, seconds, date, commit, versions …"""
        return records.origins(finished(self.all_requests()), self.requests.source)

    def export(self, folder: Path | None = None) -> list[Path]:
        """Copy all records to `results/<model>/<profile>/` and return the files.

        Raises:
            StoreError: there is no record yet.
        """
        folder = (folder or files.results_dir()) / self.model.name / self.profile.name
        if not (finished_records := finished(self.all_requests())):
            raise StoreError(f"nothing to export: run {self.model.name} {self.profile.name} first")
        return records.export(finished_records, folder)

    def __getstate__(self) -> dict:
        """Return the parts sent to another process: not the model, which it loads itself."""
        return {name: part for name, part in vars(self).items() if name not in IN_MEMORY}


def open_study(
    model: str | Path = "default",
    profile: str = "default",
    data: Path | None = None,
    learning_rate: float | None = None,
    dtype: str | None = None,
    engine: str = engines.AUTO,
) -> Study:
    """Open the study of a model under a profile. This computes nothing.

    Args:
        model: a registry name, a folder of safetensors, or `default`.
        profile: `smoke`, `quick`, `medium`, `full`, `real`, or `default`: `REPRO_PROFILE`, else the
            model's own.
        data: a folder of EntityQuestions; by default `REPRO_DATA`, else a download. A model that is
            studied on `atlas` needs no folder, and refuses one.
        learning_rate: replaces that of the model, which may depend on the profile.
        dtype: number format, `float32` or `bfloat16`; by default that of the first record, or for a
            study without records the faster one on this machine.
        engine: what answers questions: `auto`, `cpu`, `transformers` or `vllm`. Records of vLLM
            name it and its version, and only this engine finds them.

    Raises:
        ConfigError: an unknown model, profile, number format or engine, one that is not installed,
            or an impossible learning rate.
    """
    entry = registry.entry(model)
    chosen = profiles.profile(profile, entry.profile)
    if learning_rate is None:
        learning_rate = entry.learning_rates.get(chosen.name, entry.learning_rate)
    if not 0 < learning_rate < float("inf"):
        raise ConfigError(f"learning rate {learning_rate} is not a positive number")
    number_format.check(dtype)
    engines.check(engine)
    entry = replace(entry, learning_rate=learning_rate)
    return Study(entry, chosen, data, dtype=dtype, engine=engine, start=_start)


def _start(study: Study) -> FactComputation:
    # Imported on use, because programs that only read records need no PyTorch.
    from repro.study.compute import FactComputation

    return FactComputation(study)
