"""Which runs a model and a profile need, and their results as tidy tables (§3.3).

A `Study` knows the complete parameters of each run before it is computed, so what is missing
is known from the records alone; `repro.study.compute` computes it.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from repro import files, paper, provenance
from repro.data import facts
from repro.data.facts import choose
from repro.errors import ConfigError, StoreError
from repro.measures import accuracy, mastery
from repro.measures.accuracy import Cells
from repro.measures.divergence import CANDIDATES, NEAR, level_compared
from repro.models import architecture, registry, weights
from repro.study import profiles, records
from repro.study.profiles import Profile
from repro.study.requests import BASE, MIXED, REGION, VERSION, Request, Run
from repro.training.recipe import Adapter, Recipe

LORA_RATE = 10  # times the learning rate of all parameters: adapters want larger steps
ENOUGH = 10  # facts that make the divergence of a level worth comparing (§4.1)


@dataclass(frozen=True)
class Study:
    """A model under a profile. Open one with `repro.study.open_study`."""

    model: registry.ModelEntry
    profile: Profile
    data: Path | None = None
    seed: int = 0
    assumed: dict | None = None  # training facts by level, to plan before mastery is measured
    computing: Callable | None = field(
        default=None, compare=False
    )  # computes requests: (study, requests, workers)

    # --- what has to be run -----------------------------------------------------------------

    @cached_property
    def source(self) -> dict:
        """What every record of this study shares: weights, facts, seed."""
        chosen = {split: self.profile.facts[split] for split in paper.SPLITS}
        return {
            "version": VERSION,
            "weights": weights.weights_id(self.model),
            "data": facts.data_hash(self.data, self.model.facts),
            "facts": chosen,
            "seed": self.seed,
        }

    def mastery_task(self) -> Request:
        """Return the task of measuring R_k for every fact."""
        protocol = asdict(self.profile.protocol(self.seed))
        return Request("mastery", {**self.source, "protocol": protocol})

    def runs(self) -> list[Run]:
        """Return every run that can exist: a level with fewer facts than a size has none."""
        rate, made = self.model.learning_rate, []
        for level in paper.LEVELS:
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

    def mixed_runs(self) -> list[Run]:
        """Return the runs on facts of all levels that Table 7 compares.

        Not on all facts of all levels: for micro-m two such runs were a sixth of all training.
        """
        sizes = [size for size in self.profile.sizes if size != "all"]
        return self._of_all_levels(sizes, self.profile.mixed_samples)

    def lora_runs(self) -> list[Run]:
        """Return the same with adapters, at the sizes of the restored runs (Table 7).

        Raises:
            ConfigError: the profile's rank is below 1.
        """
        if self.profile.lora_samples and self.profile.lora_rank < 1:
            raise ConfigError(
                f"profile {self.profile.name}: LoRA needs a rank of at least 1, not"
                f" {self.profile.lora_rank}; to leave it out, set lora_samples to 0"
            )
        rate = float(f"{LORA_RATE * self.model.learning_rate:g}")
        runs = self._of_all_levels(self.profile.restore_sizes, self.profile.lora_samples)
        return [replace(run, learning_rate=rate, rank=self.profile.lora_rank) for run in runs]

    def _of_all_levels(self, sizes: Iterable, samples: int) -> list[Run]:
        pool, rate = sum(self._pools.values()), self.model.learning_rate
        there = [size for size in sizes if size <= pool]
        return [Run(MIXED, size, n, rate) for size in there for n in range(samples)]

    def restore_runs(self) -> list[Run]:
        """Return the runs whose parameters are restored (§5)."""
        return self._runs_of(self.profile.restore_sizes, self.profile.restore_samples)

    def control_runs(self) -> list[Run]:
        """Return the runs of which shares are restored that were chosen otherwise."""
        runs = self._runs_of(self.profile.control_sizes, self.profile.control_samples)
        return [run for run in runs if run.level in self.profile.control_levels]

    def layer_runs(self) -> list[Run]:
        """Return the runs whose layers are restored (Table 11: those of 240 samples)."""
        return self._runs_of(self.profile.layer_sizes, self.profile.layer_samples)

    def _runs_of(self, sizes: Iterable, samples: int) -> list[Run]:
        return [run for run in self.runs() if run.size in sizes and run.sample < samples]

    def finetune_task(self, run: Run) -> Request:
        """Return the task of fine-tuning itself, whose record holds the loss curve."""
        recipe = Recipe(learning_rate=run.learning_rate, seed=self._seed(run))
        data = {"level": run.level, "size": run.size, "sample": run.sample}
        if run.rank:
            adapter = Adapter(run.rank)
            data |= {"lora": asdict(adapter) | {"modules": list(adapter.modules)}}
        base = self.mastery_task()
        params = {**self.source, "mastery": provenance.key(base.kind, base.params), **data}
        return Request("finetune", {**params, "recipe": asdict(recipe)}, run)

    def accuracy_task(
        self,
        run: Run | None,
        split: str,
        percent: float = 0.0,
        strategy: str = "top",
        layers: str = "",
    ) -> Request:
        """Return the task of answering a split's questions after restoring a share."""
        params = {**self._parent(run), "split": split, "max_new_tokens": accuracy.MAX_NEW_TOKENS}
        restoration = {"percent": float(percent), "region": REGION, "strategy": strategy}
        if strategy == "random":  # other parameters in every data sample
            restoration |= {"seed": self._seed(run)}
        if layers:
            restoration |= {"layers": layers}
        return Request("accuracy", {**params, "restore": restoration if percent else None}, run)

    def instruct_task(self, split: str) -> Request:
        """Return the task of putting a split's questions to the model's instruct variant."""
        other = {"instruct": weights.weights_id(registry.entry(self.model.instruct))}
        options = {"split": split, "max_new_tokens": accuracy.MAX_NEW_TOKENS}
        return Request("instruct", {**self._parent(None), **other, **options})

    def divergence_task(self, run: Run) -> Request:
        """Return the task of comparing first-token logits (§4.1)."""
        options = {"candidates": CANDIDATES, "near": NEAR, "level": self.compared_level()}
        return Request("divergence", {**self._parent(run), **options}, run)

    def concentration_task(self, run: Run) -> Request:
        """Return the task of Table 3."""
        shares = [float(p) for p in self.profile.percents if p]
        options = {"region": REGION, "percents": shares, "without_zero_base": True}
        return Request("concentration", {**self._parent(run), **options}, run)

    def where_task(self, run: Run) -> Request:
        """Return the task of Tables 9 and 10."""
        shares = [float(p) for p in self.profile.percents if p]
        return Request("where", {**self._parent(run), "region": REGION, "percents": shares}, run)

    def tasks(self) -> list[Request]:
        """Return every task of the profile after mastery, grouped by run."""
        tasks = [self.accuracy_task(None, split) for split in ("dev", "test", "testood")]
        tasks += self.instruct_tasks()
        compared = {*self.mixed_runs(), *self.lora_runs()}
        for run in dict.fromkeys([*self.rate_runs(), *self.mixed_runs(), *self.lora_runs()]):
            tasks += self.strategy_tasks(run) if run in compared else self.rate_tasks(run)
        restored = set(self.restore_runs()), set(self.control_runs()), set(self.layer_runs())
        for run in self.runs():
            tasks += [self.finetune_task(run)]
            tasks += [self.accuracy_task(run, split) for split in ("test", "testood")]
            tasks += [self.divergence_task(run)]
            if run in restored[0]:
                tasks += [self.concentration_task(run), self.where_task(run)]
                tasks += self.restore_tasks(run, self.profile.percents)
            if run in restored[1]:
                tasks += self.control_tasks(run)
            if run in restored[2]:
                tasks += self.layer_tasks(run)
        return list({provenance.key(t.kind, t.params): t for t in tasks}.values())

    def rate_tasks(self, run: Run) -> list[Request]:
        """Return the tasks that try one learning rate."""
        return [self.finetune_task(run), self.accuracy_task(run, "dev")]

    def strategy_tasks(self, run: Run) -> list[Request]:
        """Return the tasks of Table 7 for one run on facts of all levels."""
        answered = [self.accuracy_task(run, split) for split in ("dev", "test", "testood")]
        return [self.finetune_task(run), *answered]

    def instruct_tasks(self) -> list[Request]:
        """Return the tasks of Table 7 for the model's instruct variant, where Table 7 is made."""
        asked = self.model.instruct and self.profile.mixed_samples
        return [self.instruct_task(split) for split in ("dev", "test", "testood") if asked]

    def with_instruct(self, name: str) -> "Study":
        """Return this study with another instruct variant: a registry name, a folder, or none."""
        return replace(self, model=replace(self.model, instruct=name))

    def restore_tasks(self, run: Run, percents: Iterable[float]) -> list[Request]:
        """Return the tasks of Tables 4 and 6 for one run."""
        splits = ("dev", "test", "testood", "train")
        return [self.accuracy_task(run, split, x) for x in percents for split in splits]

    def control_tasks(self, run: Run) -> list[Request]:
        """Return the tasks of the controls for one run: the same shares, otherwise chosen."""
        strategies, percents = self.profile.controls, self.profile.control_percents
        return [self.accuracy_task(run, "test", x, s) for s in strategies for x in percents]

    def layer_tasks(self, run: Run) -> list[Request]:
        """Return the tasks of Table 11 for one run: nothing, and all of each block of layers."""
        blocks, splits = self.layer_blocks(), ("test", "testood")
        tasks = [self.accuracy_task(run, split) for split in splits if blocks]
        return tasks + [
            self.accuracy_task(run, split, 100.0, layers=block)
            for block in blocks
            for split in splits
        ]

    def layer_blocks(self) -> list[str]:
        """Return the blocks of layers that are restored, such as `0-3`; of one, such as `0`."""
        if not self.profile.layer_blocks:
            return []
        number = architecture.layer_count(self.model)
        parts = np.array_split(range(number), min(self.profile.layer_blocks, number))
        return [f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts]

    def compared_level(self) -> int:
        """Return the mastery level of the facts that §4.1 compares: 4 where there are enough."""
        if self.assumed is not None:
            return max(paper.LEVELS)
        table = self._mastery
        return level_compared(table[table["split"] == "test"], ENOUGH)

    def _seed(self, run: Run) -> int:
        return self.seed * 1000 + run.sample

    def _parent(self, run: Run | None) -> dict:
        if run not in self._parents:  # to make a key takes longer than all else of a task
            task = self.finetune_task(run) if run else self.mastery_task()
            self._parents[run] = {**self.source, task.kind: provenance.key(task.kind, task.params)}
        return self._parents[run]

    @cached_property
    def _parents(self) -> dict[Run | None, dict]:
        return {}

    @cached_property
    def _mastery(self) -> pd.DataFrame:
        self.compute([task := self.mastery_task()])
        hits = records.load_table(task.record())
        return mastery.add_levels(hits, self.profile.protocol(self.seed).trials)

    @cached_property
    def _pools(self) -> dict[int, int]:
        if self.assumed is not None:
            return self.assumed
        table = self._mastery
        return table[table["split"] == "train"]["level"].value_counts().to_dict()

    def asked(self, run: Run | None, split: str) -> pd.DataFrame:
        """Return the facts of a split, or those a run is trained on (`train`): rows of `mastery`.

        Ordered by fact_id, which is the order of the answers in a record.
        """
        if split != "train":
            return self._splits[split]
        if run not in self._drawn:  # drawing hashes every fact of the pool
            pool = self._splits["train"]
            if run.level != MIXED:
                pool = pool[pool["level"] == run.level]
            self._drawn[run] = choose(pool, run.size, run.sample, self.seed)
        return self._drawn[run]

    @cached_property
    def _drawn(self) -> dict[Run, pd.DataFrame]:
        return {}

    @cached_property
    def _splits(self) -> dict[str, pd.DataFrame]:
        table = self._mastery.sort_values("fact_id")
        return {split: part.reset_index(drop=True) for split, part in table.groupby("split")}

    # --- results as tables ------------------------------------------------------------------

    def mastery(self) -> pd.DataFrame:
        """Return DataFrame[fact_id, topic, split, hits, trials, rate, level, t00 …]."""
        return self._mastery.copy()

    def distribution(self) -> pd.DataFrame:
        """Return the facts by split and level (Tables 1, 8): [model, split, level, count]."""
        table = mastery.distribution(self.mastery(), paper.SPLITS)
        return table.assign(model=self.model.title)[["model", "split", "level", "count"]]

    def accuracy(self) -> pd.DataFrame:
        """Return answers by topic and level of every run, restored or not.

        Columns: model, train_level (−1: the pre-trained model), train_size, size_label,
        sample, restored_percent, split, topic, test_level, correct, total.
        """
        return self._accuracy.copy()

    @cached_property
    def _accuracy(self) -> pd.DataFrame:
        return self._accuracies(self._accuracy_tasks())

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

    def mixed(self) -> pd.DataFrame:
        """Return answers after fine-tuning on facts of all levels (Table 7), as in `accuracy`."""
        return self._strategy(self.mixed_runs())

    def lora(self) -> pd.DataFrame:
        """Return the same after fine-tuning with adapters."""
        return self._strategy(self.lora_runs())

    def instruct(self) -> pd.DataFrame:
        """Return answers of the instruct variant, as in `accuracy`; none: an empty frame."""
        return self._accuracies(self.instruct_tasks())

    def _strategy(self, runs: list[Run]) -> pd.DataFrame:
        answered = [t for run in runs for t in self.strategy_tasks(run) if t.kind == "accuracy"]
        return self._accuracies(answered)

    def controls(self) -> pd.DataFrame:
        """Return test answers of the control runs: is it which parameters, or how much is undone?

        The columns of `accuracy`, and: strategy (of `repro restore`; `top` is the paper's, `none`
        the share 0), restored (parameters), undone_l1 and undone_l2: the percentage of the sum of
        all |s − p|, and of all (s − p)², in the region that was undone (NaN in records made
        before it was kept).
        """
        runs, shares = self.control_runs(), self.profile.control_percents
        own = [self.accuracy_task(run, "test", x) for run in runs for x in (0, *shares)]
        tasks = own + [task for run in runs for task in self.control_tasks(run)]
        return self._accuracies(tasks, self._restoration)

    def layers(self) -> pd.DataFrame:
        """Return answers after restoring blocks of layers (Table 11), and without (`none`).

        The columns of `controls`, and layers, such as `0-3`. restored_percent is 100 where a block
        was restored: all of its parameters.
        """
        tasks = [task for run in self.layer_runs() for task in self.layer_tasks(run)]
        return self._accuracies(tasks, self._restoration)

    def where(self) -> pd.DataFrame:
        """Return where the most changed parameters are (Tables 9 and 10), layer by module.

        Columns: model and run as in `accuracy`; top_percent; layer; module; n (parameters);
        change_percent (of the sum of all relative changes); k (how many of them are chosen).
        Summed over modules or layers, 100 k / Σk is the paper's percentage, and its ratio to
        100 n / Σn the lift.
        """
        tasks = [self.where_task(run) for run in self.restore_runs()]
        frame = self._frames(tasks, "table").assign(model=self.model.title)
        shares = [float(p) for p in self.profile.percents if p]
        frame = frame.assign(top_percent=[shares] * len(frame))
        return frame.explode(["top_percent", "k"], ignore_index=True).infer_objects()

    def answers(self, tasks: Iterable[Request] | None = None) -> pd.DataFrame:
        """Return the answer to every question, one row per set of answers, for paired intervals.

        Columns: those of `controls` without topic, test_level, correct and total, and three
        arrays over questions in the order of `asked`: values (0 or 1), sizes (1), strata (mastery
        levels), as `bootstrap` takes them. Records made before answers were kept have no
        row. By default the tasks of `accuracy`; those of `control_tasks` and `layer_tasks` too.
        """
        tasks = self._accuracy_tasks() if tasks is None else list(tasks)
        self.compute(tasks)
        rows = []
        for task, result in ((task, task.record().result) for task in tasks):
            if "hits" in result:
                levels = self.asked(task.run, task.params["split"])["level"].to_numpy()
                hits = accuracy.unpack(result["hits"], len(levels)).astype(np.int8)
                arrays = {"values": hits, "sizes": np.ones_like(hits), "strata": levels}
                told = self._columns(task) | self._restoration(task, result)
                rows.append({"model": self.model.title, **told, **arrays})
        return pd.DataFrame(rows)

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
        examples = [r.result["example"] for r in map(Request.record, tasks) if r.result["example"]]
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

    def missing(self, tasks: Iterable[Request]) -> list[Request]:
        """Return the tasks without a record."""
        return [task for task in tasks if task.record() is None]

    def compute(self, tasks: Iterable[Request], workers: int | None = None) -> None:
        """Compute and store what is missing of some tasks; nothing is loaded if nothing is.

        `workers`: processes that share the runs of a small model; by default one for each core.
        """
        if todo := self.missing(tasks):
            self.computing(self, todo, workers)

    def run(self, workers: int | None = None) -> int:
        """Compute all that the profile needs and return how many records were missing."""
        first = self.missing([self.mastery_task()])
        self.compute(first, workers)
        todo = self.missing(self.tasks())
        self.compute(todo, workers)
        return len(first) + len(todo)

    def export(self, folder: Path | None = None) -> list[Path]:
        """Copy all records to `results/<model>/<profile>/` and return the files.

        Raises:
            StoreError: there is no record yet.
        """
        folder = (folder or files.results_dir()) / self.model.name / self.profile.name
        finished = [r for r in (t.record() for t in self._all_tasks()) if r]
        if not finished:
            raise StoreError(f"nothing to export: run {self.model.name} {self.profile.name} first")
        return records.export(finished, folder)

    def _all_tasks(self) -> list[Request]:
        # What comes after mastery depends on it: to look at records must not compute it.
        first = self.mastery_task()
        return [first, *self.tasks()] if first.record() else [first]

    def _accuracy_tasks(self) -> list[Request]:
        tasks = [t for t in self.tasks() if t.kind == "accuracy"]
        tasks = [t for t in tasks if t.run is None or t.run.level != MIXED]
        return [t for t in tasks if _as_in_the_paper(t.params["restore"])]

    def _accuracies(self, tasks: list[Request], more=None) -> pd.DataFrame:
        frame = self._frames(tasks, "counts", more)
        if not len(frame):
            names = ["train_level", "train_size", "sample", "topic", "test_level"]
            return pd.DataFrame(columns=[*names, "restored_percent", "split", "correct", "total"])
        return frame.assign(model=self.model.title)

    def _frames(self, tasks: list[Request], name: str, more=None) -> pd.DataFrame:
        """Return a part of every task's result, with columns that say which task it is."""
        self.compute(tasks)
        made, columns = [], []
        for task in tasks:
            record = task.record()
            made.append(self._table(task, record.result, name))
            columns.append(self._columns(task) | (more(task, record.result) if more else {}))
        if not made:
            return pd.DataFrame()
        each = np.repeat(np.arange(len(made)), [len(table) for table in made])
        told = pd.DataFrame(columns).iloc[each].reset_index(drop=True)
        return pd.concat([pd.concat(made, ignore_index=True), told], axis=1)

    def _table(self, task: Request, result: dict, name: str) -> pd.DataFrame:
        if name == "counts" and "hits" in result:  # records of old hold the counts themselves
            asked = self.asked(task.run, task.params["split"])
            hits = accuracy.unpack(result["hits"], len(asked))
            return accuracy.count(asked, hits, self._cells(asked))
        return pd.DataFrame(result[name])

    def _cells(self, asked: pd.DataFrame) -> Cells:
        # `asked` keeps each frame it has returned, so that its identity names it.
        if id(asked) not in self._counted:
            self._counted[id(asked)] = accuracy.cells_of(asked)
        return self._counted[id(asked)]

    @cached_property
    def _counted(self) -> dict[int, Cells]:
        return {}

    def _columns(self, task: Request) -> dict:
        columns = self._run_columns(task.run)
        if task.kind in ("accuracy", "instruct"):
            restoration = task.params.get("restore") or {"percent": 0.0}
            columns |= {"restored_percent": restoration["percent"]}
            columns |= {"split": task.params["split"]}
        return columns

    def _restoration(self, task: Request, result: dict) -> dict:
        settings = task.params["restore"] or {"strategy": "none"}
        nothing = dict.fromkeys(("l1", "l2"), np.nan if task.params["restore"] else 0.0)
        undone = result.get("undone") or nothing
        return {
            "strategy": settings["strategy"],
            "layers": settings.get("layers", "none" if not task.params["restore"] else "all"),
            "restored": result["restored"],
            "undone_l1": undone["l1"],
            "undone_l2": undone["l2"],
        }

    def _run_columns(self, run: Run | None) -> dict:
        if run is None:
            run = Run(BASE, 0, 0, 0.0)
        pool = sum(self._pools.values()) if run.level == MIXED else self._pools.get(run.level, 0)
        size = pool if run.size is None else run.size
        label = "All" if run.size is None else str(run.size)
        where = {"train_level": run.level, "train_size": size, "size_label": label}
        name = f"{run.level}/{label}/{run.sample}/{run.learning_rate:g}"
        name += f"/lora {run.rank}" if run.rank else ""
        return {**where, "sample": run.sample, "run": name}


def _as_in_the_paper(restoration: dict | None) -> bool:
    return not restoration or (restoration["strategy"], restoration.get("layers")) == ("top", None)


def open_study(
    model: str | Path = "default",
    profile: str = "default",
    data: Path | None = None,
    learning_rate: float | None = None,
) -> Study:
    """Open the study of a model under a profile. Nothing is computed yet.

    Args:
        model: a registry name, a folder of safetensors, or `default`.
        profile: `smoke`, `quick`, `medium`, `full`, or `default`: `REPRO_PROFILE`, else the
            model's own.
        data: a folder of EntityQuestions; by default `REPRO_DATA`, else a download. A model that
            is studied on `atlas` needs none and refuses one.
        learning_rate: instead of the model's own.

    Raises:
        ConfigError: an unknown model or profile, or an impossible learning rate.
    """
    entry = registry.entry(model)
    if learning_rate is not None:
        if not 0 < learning_rate < float("inf"):
            raise ConfigError(f"learning rate {learning_rate} is not a positive number")
        entry = replace(entry, learning_rate=learning_rate)
    return Study(entry, profiles.profile(profile, entry.profile), data, computing=_compute)


def _compute(study: Study, requests: list[Request], workers: int | None) -> None:
    # Imported on use: whoever only reads records need not wait for PyTorch.
    from repro.study.compute import compute

    compute(study, requests, workers)


open = open_study  # the name of before, until all callers are moved
