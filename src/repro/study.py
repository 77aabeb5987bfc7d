"""Which runs a model and a profile need, and their results as tidy tables (§3.3).

A `Study` knows the complete parameters of each run before it is computed, so what is missing
is known from the records alone; `repro.workbench` computes it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from repro import evaluate, facts, mastery, models, profiles, sft, store
from repro.divergence import CANDIDATES, NEAR, level_compared
from repro.errors import ConfigError, StoreError
from repro.profiles import DEFAULT_PROFILE, Profile, profile

__all__ = ["DEFAULT_PROFILE", "Run", "Study", "Task", "open", "profile", "profiles"]

VERSION = 2  # part of every key: raised when a change to the code changes results
MIXED = -2  # "level" of a run on facts of all levels
BASE = -1  # "level" of the pre-trained model, which no run has changed
ENOUGH = 10  # facts that make the divergence of a level worth comparing (§4.1)


@dataclass(frozen=True)
class Run:
    """One fine-tuning: `size` facts of `level` (None: all of them), data sample `sample`."""

    level: int
    size: int | None
    sample: int
    learning_rate: float


@dataclass(frozen=True)
class Task:
    """One record to be: what kind, with which parameters, from which run."""

    kind: str
    params: dict = field(hash=False)
    run: Run | None = None

    def record(self) -> store.Record | None:
        """Return the finished record, or None."""
        return store.load(self.kind, self.params)


@dataclass(frozen=True)
class Study:
    """A model under a profile. Open one with `repro.study.open`."""

    model: models.Entry
    profile: Profile
    data: Path | None = None
    seed: int = 0
    assumed: dict | None = None  # training facts by level, to plan before mastery is measured

    # --- what has to be run -----------------------------------------------------------------

    @cached_property
    def source(self) -> dict:
        """What every record of this study shares: weights, facts, seed."""
        chosen = {split: self.profile.facts[split] for split in facts.SPLITS}
        return {
            "version": VERSION,
            "weights": models.weights_id(self.model),
            "data": facts.data_hash(self.data, self.model.facts),
            "facts": chosen,
            "seed": self.seed,
        }

    def mastery_task(self) -> Task:
        """Return the task of measuring R_k for every fact."""
        protocol = asdict(self.profile.protocol(self.seed))
        return Task("mastery", {**self.source, "protocol": protocol})

    def runs(self) -> list[Run]:
        """Return every run that can exist: a level with fewer facts than a size has none."""
        rate, made = self.model.learning_rate, []
        for level in mastery.LEVELS:
            for size in self.profile.sizes:
                wanted = None if size == "all" else size
                if 0 < (wanted or 1) <= self._pools.get(level, 0):
                    made += [Run(level, wanted, n, rate) for n in range(self.profile.samples)]
        return made

    def rate_runs(self) -> list[Run]:
        """Return the runs that compare learning rates, on facts of all levels."""
        size, pool = self.profile.rate_size, sum(self._pools.values())
        samples = range(self.profile.rate_samples if size <= pool else 0)
        return [Run(MIXED, size, n, rate) for rate in self.profile.rates for n in samples]

    def restore_runs(self) -> list[Run]:
        """Return the runs whose parameters are restored (§5)."""
        chosen = self.profile.restore_sizes, range(self.profile.restore_samples)
        return [run for run in self.runs() if run.size in chosen[0] and run.sample in chosen[1]]

    def finetune_task(self, run: Run) -> Task:
        """Return the task of fine-tuning itself, whose record holds the loss curve."""
        recipe = sft.Recipe(learning_rate=run.learning_rate, seed=self.seed * 1000 + run.sample)
        data = {"level": run.level, "size": run.size, "sample": run.sample}
        base = self.mastery_task()
        params = {**self.source, "mastery": store.key(base.kind, base.params), **data}
        return Task("finetune", {**params, "recipe": asdict(recipe)}, run)

    def accuracy_task(self, run: Run | None, split: str, percent: float = 0.0) -> Task:
        """Return the task of answering a split's questions after restoring a share."""
        params = {**self._parent(run), "split": split, "max_new_tokens": evaluate.MAX_NEW_TOKENS}
        restoration = {"percent": float(percent), "region": "transformer", "strategy": "top"}
        return Task("accuracy", {**params, "restore": restoration if percent else None}, run)

    def divergence_task(self, run: Run) -> Task:
        """Return the task of comparing first-token logits (§4.1)."""
        options = {"candidates": CANDIDATES, "near": NEAR, "level": self.compared_level()}
        return Task("divergence", {**self._parent(run), **options}, run)

    def concentration_task(self, run: Run) -> Task:
        """Return the task of Table 3."""
        shares = [float(p) for p in self.profile.percents if p]
        options = {"region": "transformer", "percents": shares, "without_zero_base": True}
        return Task("concentration", {**self._parent(run), **options}, run)

    def tasks(self, percents: Iterable[float] | None = None) -> list[Task]:
        """Return every task of the profile after mastery, grouped by run."""
        percents = self.profile.percents if percents is None else percents
        tasks = [self.accuracy_task(None, split) for split in ("dev", "test", "testood")]
        for run in self.rate_runs():
            tasks += self.rate_tasks(run)
        restore_runs = self.restore_runs()
        for run in self.runs():
            tasks += [self.finetune_task(run)]
            tasks += [self.accuracy_task(run, split) for split in ("test", "testood")]
            tasks += [self.divergence_task(run)]
            if run in restore_runs:
                tasks += [self.concentration_task(run), *self.restore_tasks(run, percents)]
        return list({store.key(t.kind, t.params): t for t in tasks}.values())

    def rate_tasks(self, run: Run) -> list[Task]:
        """Return the tasks that try one learning rate."""
        return [self.finetune_task(run), self.accuracy_task(run, "dev")]

    def restore_tasks(self, run: Run, percents: Iterable[float]) -> list[Task]:
        """Return the tasks of Tables 4 and 6 for one run."""
        splits = ("dev", "test", "testood", "train")
        return [self.accuracy_task(run, split, x) for x in percents for split in splits]

    def compared_level(self) -> int:
        """Return the mastery level of the facts that §4.1 compares: 4 where there are enough."""
        if self.assumed is not None:
            return max(mastery.LEVELS)
        table = self._mastery
        return level_compared(table[table["split"] == "test"], ENOUGH)

    def _parent(self, run: Run | None) -> dict:
        task = self.finetune_task(run) if run else self.mastery_task()
        return {**self.source, task.kind: store.key(task.kind, task.params)}

    @cached_property
    def _mastery(self) -> pd.DataFrame:
        self.compute([task := self.mastery_task()])
        hits = store.load_table(task.record())
        return mastery.add_levels(hits, self.profile.protocol(self.seed).trials)

    @cached_property
    def _pools(self) -> dict[int, int]:
        if self.assumed is not None:
            return self.assumed
        table = self._mastery
        return table[table["split"] == "train"]["level"].value_counts().to_dict()

    # --- results as tables ------------------------------------------------------------------

    def mastery(self) -> pd.DataFrame:
        """Return DataFrame[fact_id, topic, split, hits, trials, rate, level, t00 …]."""
        return self._mastery.copy()

    def distribution(self) -> pd.DataFrame:
        """Return the facts by split and level (Tables 1, 8): [model, split, level, count]."""
        table = mastery.distribution(self.mastery(), facts.SPLITS)
        return table.assign(model=self.model.title)[["model", "split", "level", "count"]]

    def accuracy(self) -> pd.DataFrame:
        """Return answers by topic and level of every run, restored or not.

        Columns: model, train_level (−1: the pre-trained model), train_size, size_label,
        sample, restored_percent, split, topic, test_level, correct, total.
        """
        rated = set(self.rate_runs())
        tasks = [t for t in self.tasks() if t.kind == "accuracy" and t.run not in rated]
        return self._accuracies(tasks)

    def restore(self, percent: float) -> pd.DataFrame:
        """Return the same columns for one restored share of the restoration runs.

        Raises:
            ConfigError: the share is not a percentage.
        """
        if not 0 <= percent <= 100:
            raise ConfigError(f"cannot restore {percent} %: give a percentage from 0 to 100")
        shares = [round(float(percent), 9)]
        runs = self.restore_runs()
        return self._accuracies([t for run in runs for t in self.restore_tasks(run, shares)])

    def learning_rates(self) -> pd.DataFrame:
        """Return dev answers by learning rate, and the columns of `accuracy`."""
        self.compute(t for run in self.rate_runs() for t in self.rate_tasks(run))
        frame = self._accuracies([self.accuracy_task(run, "dev") for run in self.rate_runs()])
        rates = {self._run_columns(run)["run"]: run.learning_rate for run in self.rate_runs()}
        return frame.assign(learning_rate=frame["run"].map(rates) if len(frame) else [])

    def divergence(self) -> pd.DataFrame:
        """Return KL sums by run and topic (Figure 5), in nats: [… topic, facts, kl_sum]."""
        tasks = [self.divergence_task(run) for run in self.runs()]
        return self._frames(tasks, "table").assign(model=self.model.title)

    def logits_example(self) -> dict:
        """Return one worked example of §4.1 (Figure 3): the largest run's median fact."""
        tasks = [self.divergence_task(run) for run in self.runs()]
        self.compute(tasks)
        examples = [r.result["example"] for r in map(Task.record, tasks) if r.result["example"]]
        return examples[-1] if examples else {}

    def concentration(self) -> pd.DataFrame:
        """Return Table 3 for our runs: [… top_percent, share_of_change_percent, k, n, …]."""
        tasks = [self.concentration_task(run) for run in self.restore_runs()]
        return self._frames(tasks, "table").assign(model=self.model.title)

    def losses(self) -> pd.DataFrame:
        """Return the loss curve of every run: [… step, loss]."""
        return self._frames([self.finetune_task(run) for run in self.runs()], "losses")

    def records(self) -> pd.DataFrame:
        """Return what traces each record used: kind, key, seconds, date, commit, versions …"""
        found = [r for r in (t.record() for t in self._all_tasks()) if r]
        # A fine-tuning times itself, because its record is written after other work.
        return pd.DataFrame(
            {"kind": r.kind, "key": r.key, **self.source, **r.provenance}
            | ({"wall_seconds": r.result["seconds"]} if "seconds" in r.result else {})
            for r in found
        )

    # --- computing what is missing ----------------------------------------------------------

    def missing(self, tasks: Iterable[Task]) -> list[Task]:
        """Return the tasks without a record."""
        return [task for task in tasks if task.record() is None]

    def compute(self, tasks: Iterable[Task]) -> None:
        """Compute and store what is missing of some tasks; nothing is loaded if nothing is."""
        if todo := self.missing(tasks):
            from repro.workbench import compute  # loads the model, so only when needed

            compute(self, todo)

    def run(self) -> int:
        """Compute all that the profile needs and return how many records were missing."""
        first = self.missing([self.mastery_task()])
        self.compute(first)
        todo = self.missing(self.tasks())
        self.compute(todo)
        return len(first) + len(todo)

    def export(self, folder: Path | None = None) -> list[Path]:
        """Copy all records to `results/<model>/<profile>/` and return the files.

        Raises:
            StoreError: there is no record yet.
        """
        folder = (folder or store.results_dir()) / self.model.name / self.profile.name
        records = [r for r in (t.record() for t in self._all_tasks()) if r]
        if not records:
            raise StoreError(f"nothing to export: run {self.model.name} {self.profile.name} first")
        return store.export(records, folder)

    def _all_tasks(self) -> list[Task]:
        # What comes after mastery depends on it: to look at records must not compute it.
        first = self.mastery_task()
        return [first, *self.tasks()] if first.record() else [first]

    def _accuracies(self, tasks: list[Task]) -> pd.DataFrame:
        frame = self._frames(tasks, "counts")
        if not len(frame):
            names = ["train_level", "train_size", "sample", "topic", "test_level"]
            return pd.DataFrame(columns=[*names, "restored_percent", "split", "correct", "total"])
        return frame.assign(model=self.model.title)

    def _frames(self, tasks: list[Task], name: str) -> pd.DataFrame:
        self.compute(tasks)
        made = []
        for task in tasks:
            columns = self._run_columns(task.run)
            if task.kind == "accuracy":
                restoration = task.params["restore"] or {"percent": 0.0}
                columns |= {"restored_percent": restoration["percent"]}
                columns |= {"split": task.params["split"]}
            made.append(pd.DataFrame(task.record().result[name]).assign(**columns))
        return pd.concat(made, ignore_index=True) if made else pd.DataFrame()

    def _run_columns(self, run: Run | None) -> dict:
        if run is None:
            run = Run(BASE, 0, 0, 0.0)
        size = self._pools[run.level] if run.size is None else run.size
        label = "All" if run.size is None else str(run.size)
        where = {"train_level": run.level, "train_size": size, "size_label": label}
        name = f"{run.level}/{label}/{run.sample}/{run.learning_rate:g}"
        return {**where, "sample": run.sample, "run": name}


def open(
    model: str | Path = "default",
    profile: str = "default",
    data: Path | None = None,
    learning_rate: float | None = None,
) -> Study:
    """Open the study of a model under a profile. Nothing is computed yet.

    Args:
        model: a registry name, a folder of safetensors, or `default`.
        profile: `smoke`, `quick`, `full`, or `default`: `REPRO_PROFILE`, else the model's own.
        data: a folder of EntityQuestions; by default `REPRO_DATA`, else a download. A model that
            is studied on `atlas` needs none and refuses one.
        learning_rate: instead of the model's own.

    Raises:
        ConfigError: an unknown model or profile, or an impossible learning rate.
    """
    entry = models.entry(model)
    if learning_rate is not None:
        if not 0 < learning_rate < float("inf"):
            raise ConfigError(f"learning rate {learning_rate} is not a positive number")
        entry = replace(entry, learning_rate=learning_rate)
    return Study(entry, profiles.profile(profile, entry.profile), data)
