"""A model studied under a profile (§3.3): what there is to compute, and the results.

`Study` puts the parts together. `requests` knows the complete parameters of each record, `grid`
which runs exist, `results` makes frames of records, and `repro.study.compute` computes what is
missing, with a model that stays in memory from one call to the next.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from repro import files, paper
from repro.data import facts
from repro.errors import ConfigError, StoreError
from repro.measures import mastery
from repro.models import devices, registry
from repro.study import number_format, profiles, records
from repro.study.choice import Choice
from repro.study.grid import Grid
from repro.study.pools import Pools
from repro.study.profiles import Profile
from repro.study.records import Record
from repro.study.requests import Request, Requests, Run, source
from repro.study.results import Results
from repro.study.schedule import Part, of_part

BEFORE_RUNS = ("score", "mastery")  # kinds of records that all runs depend on
IN_MEMORY = ("computation", "results")  # parts of a study that no other process is sent


@dataclass(frozen=True)
class Study:
    """A model under a profile. Open one with `repro.study.open_study`.

    `assumed` holds training facts by level, to plan a study before mastery is measured. `dtype`
    fixes the number format (`repro.study.number_format`). `start` makes what computes requests: it
    has `compute(requests, workers)`.
    """

    model: registry.ModelEntry
    profile: Profile
    data: Path | None = None
    seed: int = 0
    assumed: dict[int, int] | None = None
    dtype: str | None = None
    start: Callable[["Study"], object] | None = field(default=None, compare=False)

    @cached_property
    def requests(self) -> Requests:
        """Makes the request for any record of this study."""
        shared = {**self._source, **self._number_format[0]}
        return Requests(self.model, self.profile, shared, self.compared_level)

    @property
    def number_format(self) -> str:
        """The format that the model is trained and answers in: `float32` or `bfloat16`."""
        return self._number_format[1]

    @cached_property
    def _number_format(self) -> tuple[dict, str]:
        if self.choice:
            first = self.choice.request()
        else:
            first = Requests(self.model, self.profile, self._source, self.compared_level).mastery()
        return number_format.choose(self.model, first.kind, first.params, self.dtype)

    @cached_property
    def _source(self) -> dict:
        shared = source(self.model, self.profile, self.data, self.seed)
        if not self.choice:
            return shared
        if self.assumed is None:
            self.compute([self.scores()])
        return shared | self.choice.parameters(self.scores().record())

    @cached_property
    def choice(self) -> Choice | None:
        """The choice of facts by score, where the profile has one."""
        given = self.model, self.profile, self.data, self.seed
        return Choice(*given) if self.profile.choose else None

    def scores(self) -> Request | None:
        """Request the scores by which facts are chosen; None where they are not."""
        return self.choice.request(self._number_format[0]) if self.choice else None

    def selected_facts(self) -> pd.DataFrame:
        """Return the facts that are measured. Computes the scores if facts are chosen by them."""
        if self.choice:
            self.compute([self.scores()])
            return self.choice.selected(self.scores().record())
        loaded = facts.load(self.data, world=self.model.facts)
        return facts.select(loaded, self.requests.source["facts"], self.seed)

    @cached_property
    def pools(self) -> Pools:
        """The facts with their mastery. Computes mastery if it is missing."""
        request = self.requests.mastery()
        self.compute([request])
        hits = devices.in_first_process(lambda: records.load_table(request.record()))
        trials = self.profile.protocol(self.seed).trials
        return Pools(mastery.add_levels(hits, trials), self.seed)

    @cached_property
    def grid(self) -> Grid:
        """The runs that exist. Computes mastery if it is missing and nothing is assumed."""
        sizes = self.pools.sizes() if self.assumed is None else self.assumed
        return Grid(self.profile, self.model.learning_rate, sizes)

    @cached_property
    def results(self) -> Results:
        """The records as frames."""
        return Results(self)

    @cached_property
    def computation(self):
        """What computes requests, and keeps the model in memory."""
        return self.start(self)

    def mastery(self) -> pd.DataFrame:
        """Return DataFrame[fact_id, topic, split, hits, trials, rate, level, t00 …]."""
        return self.pools.mastery.copy()

    def facts_of(self, run: Run | None, split: str) -> pd.DataFrame:
        """Return the facts of a split, or those a run is trained on (`train`): rows of `mastery`.

        Ordered by fact_id, which is the order of the answers in a record.
        """
        return self.pools.facts(run, split)

    def compared_level(self) -> int:
        """Return the mastery level of the facts that §4.1 compares: 4 where there are enough."""
        return max(paper.LEVELS) if self.assumed is not None else self.pools.compared_level()

    def with_instruct(self, name: str) -> "Study":
        """Return this study with another instruct variant: a registry name, a folder, or none."""
        return replace(self, model=replace(self.model, instruct=name))

    def all_requests(self) -> list[Request]:
        """Return the request for mastery, and every other of the profile as far as it is known.

        The others depend on mastery: until it is measured, or levels are assumed, it stands alone.
        Where facts are chosen by score, mastery depends on the scores in the same way.
        """
        scores = [self.scores()] if self.choice else []
        if self.assumed is None and self.missing(scores):
            return scores
        first = self.requests.mastery()
        known = self.assumed is not None or not self.missing([first])
        rest = self.grid.requests(self.requests) if known else []
        return [*scores, first, *rest]

    def missing(self, requests: Iterable[Request]) -> list[Request]:
        """Return the requests without a record."""
        requests = list(requests)
        absent = devices.in_first_process(lambda: [r.record() is None for r in requests])
        return [request for request, missing in zip(requests, absent, strict=True) if missing]

    def compute(self, requests: Iterable[Request], workers: int | None = None) -> None:
        """Compute and store what is missing of some requests; load nothing if nothing is.

        `workers`: processes that share the runs of a small model; by default one for each core.
        """
        if missing := self.missing(requests):
            self.computation.compute(missing, workers)

    def run(self, workers: int | None = None, part: Part | None = None) -> int:
        """Compute all that the profile needs and return how many records were missing.

        `part`: compute this share only: whole runs, and of mastery blocks of facts. The runs depend
        on mastery, so they wait until all parts have counted their blocks.
        """
        scores = self.missing([self.scores()] if self.choice else [])
        self.compute(scores, workers)
        first = self.missing([self.requests.mastery()])
        if first and part:
            if not self.computation.count_part(first[0], part, workers):
                return len(scores)
        else:
            self.compute(first, workers)
        rest = [request for request in self.all_requests() if request.kind not in BEFORE_RUNS]
        missing = self.missing(of_part(rest, part) if part else rest)
        self.compute(missing, workers)
        return len(scores) + len(first) + len(missing)

    def records(self) -> pd.DataFrame:
        """Return what traces each record used: kind, key, seconds, date, commit, versions …"""
        # A fine-tuning times itself, because its record is written after other work.
        return pd.DataFrame(
            {"kind": r.kind, "key": r.key, **self.requests.source, **r.provenance}
            | ({"wall_seconds": r.result["seconds"]} if "seconds" in r.result else {})
            for r in self._finished()
        )

    def export(self, folder: Path | None = None) -> list[Path]:
        """Copy all records to `results/<model>/<profile>/` and return the files.

        Raises:
            StoreError: there is no record yet.
        """
        folder = (folder or files.results_dir()) / self.model.name / self.profile.name
        if not (finished := self._finished()):
            raise StoreError(f"nothing to export: run {self.model.name} {self.profile.name} first")
        return records.export(finished, folder)

    def _finished(self) -> list[Record]:
        return [r for r in (request.record() for request in self.all_requests()) if r]

    def __getstate__(self) -> dict:
        """Return what another process is sent: not the model, which it loads itself."""
        return {name: part for name, part in vars(self).items() if name not in IN_MEMORY}


def open_study(
    model: str | Path = "default",
    profile: str = "default",
    data: Path | None = None,
    learning_rate: float | None = None,
    dtype: str | None = None,
) -> Study:
    """Open the study of a model under a profile. Nothing is computed yet.

    Args:
        model: a registry name, a folder of safetensors, or `default`.
        profile: `smoke`, `quick`, `medium`, `full`, `real`, or `default`: `REPRO_PROFILE`, else the
            model's own.
        data: a folder of EntityQuestions; by default `REPRO_DATA`, else a download. A model that
            is studied on `atlas` needs none and refuses one.
        learning_rate: instead of the model's own.
        dtype: number format, `float32` or `bfloat16`; by default that of the first record, and for
            a study without records the one that is faster on this machine.

    Raises:
        ConfigError: an unknown model, profile or number format, or an impossible learning rate.
    """
    entry = registry.entry(model)
    if learning_rate is not None:
        if not 0 < learning_rate < float("inf"):
            raise ConfigError(f"learning rate {learning_rate} is not a positive number")
        entry = replace(entry, learning_rate=learning_rate)
    number_format.check(dtype)
    chosen = profiles.profile(profile, entry.profile)
    return Study(entry, chosen, data, dtype=dtype, start=_start)


def _start(study: Study):
    # Imported on use: whoever only reads records need not wait for PyTorch.
    from repro.study.compute import FactComputation

    return FactComputation(study)
