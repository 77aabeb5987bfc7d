"""Computes a study's missing records, loading the model once (§3.3).

All records of one fine-tuned model are computed while its weights are in memory. Each is on
disk as soon as it is finished, so an interrupted study goes on where it stopped.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from itertools import groupby
from typing import NamedTuple

import pandas as pd
import torch
from transformers import PreTrainedModel

from repro import files, paper, provenance
from repro.data import facts
from repro.errors import ConfigError, ModelError
from repro.inference.cpu import cpu_engine
from repro.inference.decoding import Prompt
from repro.measures import accuracy, divergence, mastery
from repro.models import devices, loading, registry
from repro.restoration import restore
from repro.study.requests import MIXED, REGION, Request, Run
from repro.study.session import Bench
from repro.study.workers import how_many, started
from repro.training import sft
from repro.training.recipe import Adapter, Recipe


def compute(study, tasks: list[Request], workers: int | None = None) -> None:
    """Compute and store tasks, run by run, with a progress bar.

    Under `accelerate launch` all processes share the work, and the first one writes. The runs of
    a small model are shared among `workers` of one thread each (None: one for each core, where
    there are runs enough); their number changes no result.

    Raises:
        ReproError: the model, the facts or the cache folder cannot be used.
    """
    bench = Workbench(study)
    with bench.processes.main_process_first():  # it downloads and converts, once for all
        bench.load()  # now, so that errors come before the progress bar
    # What is missing was looked up by each process: none may write before all have looked.
    bench.processes.wait_for_everyone()
    groups = [list(group) for _, group in groupby(tasks, key=lambda task: task.run)]
    with (
        bench.shared(groups, workers),
        bench.bar(len(tasks), f"{study.model.name} {study.profile.name}", "rec", True) as bar,
    ):
        for task, made in bench.each(groups, lambda task: bar.set_postfix_str(_describe(task))):
            bench.save(task, made.result, made.seconds, made.table)
            bar.update()


def _effort(group: list[Request]) -> tuple[int, float]:
    run = group[0].run
    return len(group), (run.size or math.inf) if run else 0


def _describe(task: Request) -> str:
    if task.run is None:
        return task.kind
    level = "all levels" if task.run.level == MIXED else f"level {task.run.level}"
    level += ", LoRA" if task.run.rank else ""
    return f"{task.kind}, {level}, {task.run.size or 'all'} facts, sample {task.run.sample}"


class Made(NamedTuple):
    """What was computed for a record: its result, a table beside it, and the seconds it took."""

    result: dict
    table: pd.DataFrame | None
    seconds: float


def _loaded(study, facts: pd.DataFrame) -> "Workbench":
    """Return what a worker process computes with, its model in memory."""
    bench = Workbench(study, facts, bars=False)
    bench.load()
    return bench


class Workbench(Bench):
    """What a study's model does, run by run."""

    def __init__(self, study, facts: pd.DataFrame | None = None, bars: bool = True):
        """Facts, if not given, are loaded on first use."""
        super().__init__(study.model, study.profile.name, bars)
        self.study, self.workers = study, None
        if facts is not None:
            self.facts = facts
        self.training: dict = {}
        self.rankings: dict[tuple, restore.Ranking] = {}
        self.thresholds: dict[tuple, restore.Cut] = {}
        self.prompts: dict[str, list[Prompt]] = {}
        self.own_prompts: dict[str, list[Prompt]] = {}
        self.group: list[Request] = []
        self.answered: dict[str, dict] = {}

    @cached_property
    def facts(self) -> pd.DataFrame:
        """The profile's facts."""
        loaded = facts.load(self.study.data, world=self.study.model.facts)
        return facts.select(loaded, self.study.source["facts"], self.study.seed)

    @cached_property
    def known(self) -> pd.DataFrame:
        """The profile's facts with their mastery, by fact_id."""
        measured = self.study.mastery().drop(columns=["topic", "split"])
        return self.facts.merge(measured, on="fact_id", validate="1:1").set_index("fact_id")

    @cached_property
    def small(self) -> bool:
        """Whether float32 is fastest anywhere, and processes of one thread may share the study."""
        alone = self.processes.num_processes == 1
        return (
            alone
            and self.network.num_parameters() <= cpu_engine.SMALL
            and cpu_engine.fits(self.network)
        )

    @cached_property
    def decoder(self):
        """The network that decodes: the trained one itself where float32 is fastest."""
        return self.network if self.small else super().decoder

    @cached_property
    def engine(self) -> cpu_engine.Lean | None:
        """The decoder as `repro.inference.cpu.cpu_engine` computes it, where it can."""
        if self.processes.num_processes > 1 or not cpu_engine.fits(self.decoder):
            return None
        return cpu_engine.Lean(self.decoder)

    @cached_property
    def trainer(self) -> cpu_engine.Lean | PreTrainedModel:
        """What is fine-tuned: the float32 weights, multiplied in the decoder's dtype."""
        if self.engine is None or self.decoder is self.network:
            return self.engine or self.network
        return cpu_engine.Lean(self.network, self.decoder.dtype)

    def load(self) -> None:
        """Load the model and the facts."""
        self.facts, self.reader  # noqa: B018

    @property
    def reader(self):
        """What reads texts: the decoder, or what does the same faster."""
        return self.engine or self.decoder

    @cached_property
    def reference(self) -> divergence.Reference:
        """The pre-trained side of §4.1; must be built while the decoder holds `base`."""
        test = self.asked(None, "test")
        chosen = test[test["level"] == self.study.compared_level()]
        return divergence.reference(self.reader, self.tokenizer, chosen)

    @cached_property
    def tuned(self) -> dict[str, torch.Tensor]:
        """The fine-tuned weights of the current run."""
        return restore.snapshot(self.network)

    @cached_property
    def moved(self) -> restore.Change:
        """How far fine-tuning moved the region's parameters, in the current run."""
        return restore.change(restore.pair(self.base, self.tuned, REGION))

    def ranking(self, strategy: str = "top", layers: str = "", seed: int = 0) -> restore.Ranking:
        """Rank the current run; one ranking serves every restored share."""
        settings = (strategy, layers, seed)
        if settings not in self.rankings:
            options = {"strategy": strategy, "layers": layers, "seed": seed}
            self.rankings[settings] = restore.rank(self.base, self.tuned, REGION, **options)
        return self.rankings[settings]

    # --- sharing work -----------------------------------------------------------------------

    @contextmanager
    def shared(self, groups: list[list[Request]], workers: int | None):
        """Start workers where the model is small, and give this process one thread meanwhile."""
        if workers is not None and workers < 1:
            raise ConfigError(f"{workers} workers: give 1 or more")
        if not self.small:
            if (workers or 1) > 1:
                raise ConfigError(
                    "workers share the study of a small model on a CPU only, and not under"
                    f" accelerate launch: run {self.study.model.name} without --workers"
                )
            yield
            return
        workers, threads = workers or how_many(self._jobs(groups)), torch.get_num_threads()
        several = (
            started(workers, partial(_loaded, self.study, self.facts))
            if workers > 1
            else nullcontext()
        )
        torch.set_num_threads(1)
        try:
            with several as self.workers:
                yield
        finally:
            self.workers = None
            torch.set_num_threads(threads)

    def _jobs(self, groups: list[list[Request]]) -> int:
        blocks = len(self.facts) // mastery.BLOCK
        return sum(blocks if group[0].kind == "mastery" else 1 for group in groups)

    def each(self, groups: list[list[Request]], tell) -> Iterator[tuple[Request, Made]]:
        """Compute the tasks of each run; `tell` is called with the task at hand.

        Mastery is one task, so its blocks are what workers share; of the rest, whole runs.
        """
        here, apart = [], []
        for group in groups:
            alone = not self.workers or group[0].kind == "mastery"
            (here if alone else apart).append(group)
        for group in here:
            for place, made in self.records(group, tell):
                yield group[place], made
        if apart:
            apart.sort(key=_effort, reverse=True)  # the longest first, so that all end together
            jobs = (("records", group) for group in apart)
            for number, (place, made) in self.workers.spread(jobs):
                tell(apart[number][place])
                yield apart[number][place], made

    def records(self, group: list[Request], tell=lambda task: None) -> Iterator[tuple[int, Made]]:
        """Compute the tasks of one run; yields (place in the group, what was made)."""
        self.prepare(group[0].run, group)
        for place, task in enumerate(group):
            tell(task)
            start = time.perf_counter()
            result, table = getattr(self, task.kind)(task)
            yield place, Made(result, table, round(time.perf_counter() - start, 3))

    def block(self, chunk: pd.DataFrame, protocol: mastery.Protocol) -> Iterator[pd.DataFrame]:
        """Count the hits of some facts."""
        yield mastery.count(self.reader, self.tokenizer, chunk, protocol)

    # --- one run after another --------------------------------------------------------------

    def prepare(self, run: Run | None, tasks: list[Request]) -> None:
        """Bring the weights of a run into memory (None: the pre-trained model)."""
        self.group, self.answered = [t for t in tasks if t.kind == "accuracy"], {}
        if any(task.kind == "divergence" for task in tasks):
            self._reset()
            self.reference  # noqa: B018 - built here, while the decoder holds the base weights
        if all(task.kind == "mastery" for task in tasks):
            return
        self._reset()
        if run is not None:
            self._finetune(run)

    def _reset(self) -> None:
        for name in ("tuned", "moved"):
            self.__dict__.pop(name, None)
        self.rankings, self.thresholds, self.own_prompts = {}, {}, {}
        for network in {self.network, self.decoder}:
            restore.write(network, self.base)

    def _finetune(self, run: Run) -> None:
        recipe = Recipe(**self.study.finetune_task(run).params["recipe"])
        chosen = self.asked(run, "train")
        steps = -(-len(chosen) // recipe.batch_size)
        with self.steps(steps, "fine-tuning") as show:
            given = self.tokenizer, chosen, recipe
            if run.rank:
                from repro.training import lora  # loads peft, which nothing else needs

                self.training = lora.finetune(self.network, *given, Adapter(run.rank), show)
            else:
                self.training = sft.finetune(self.trainer, *given, show)
        restore.write(self.decoder, self.tuned)

    def asked(self, run: Run | None, split: str) -> pd.DataFrame:
        """Return the facts of a split, or those a run is fine-tuned on (`train`)."""
        return self.known.loc[self.study.asked(run, split)["fact_id"]].reset_index()

    # --- one method per kind of record; each returns (result, table beside it) ---------------

    def mastery(self, task: Request) -> tuple[dict, pd.DataFrame]:
        """Measure R_k of every fact."""
        protocol = mastery.Protocol(**task.params["protocol"])
        options = {
            "partial": files.cache_dir() / "partial" / provenance.key(task.kind, task.params)
        }
        if self.workers:
            options["spread"] = lambda blocks: self.workers.spread(
                ("block", block, protocol) for block in blocks
            )
        with self.bar(len(self.facts), "mastery", "fact", True) as bar:
            options["progress"] = bar.update
            measured = mastery.measure(self.reader, self.tokenizer, self.facts, protocol, **options)
        counts = mastery.distribution(measured, paper.SPLITS).to_dict("records")
        columns = ["fact_id", "topic", "split", *mastery.template_columns(measured)]
        return {"counts": counts, "table": True}, measured[columns]

    def finetune(self, task: Request) -> tuple[dict, None]:
        """Report the training that `prepare` did."""
        losses = [{"step": i + 1, "loss": x} for i, x in enumerate(self.training["loss"])]
        rest = {k: v for k, v in self.training.items() if k != "loss"}
        topics = self.study.asked(task.run, "train")["topic"].value_counts().sort_index().to_dict()
        return {"losses": losses, "topics": topics, **rest}, None

    def accuracy(self, task: Request) -> tuple[dict, None]:
        """Answer the questions of a split.

        All splits asked of one set of weights are answered together, which fills the batches;
        the time is booked on the first of them.
        """
        if (key := provenance.key(task.kind, task.params)) not in self.answered:
            share = task.params["restore"]
            together = [t for t in self.group if t.params["restore"] == share]
            self.answered |= self._answer(together, share)
        return self.answered.pop(key), None

    def _answer(self, tasks: list[Request], settings: dict | None) -> dict[str, dict]:
        asked = [self._prompts(task.run, task.params["split"]) for task in tasks]
        limit = max(task.params["max_new_tokens"] for task in tasks)
        with self._restored(settings) as undone:
            whole = [prompt for prompts in asked for prompt in prompts]
            done = accuracy.answer(self.reader, self.tokenizer, whole, max_new_tokens=limit)
        results = {}
        for task, prompts in zip(tasks, asked, strict=True):
            own, done = done[: len(prompts)], done[len(prompts) :]
            hits = [c.hit for c in own]
            results[provenance.key(task.kind, task.params)] = {
                **self._undone(undone),
                "correct": sum(hits),
                "total": len(hits),
                "hits": accuracy.pack(hits),
                "tokens": sum(len(c.ids) for c in own),
            }
        return results

    def _prompts(self, run: Run | None, split: str) -> list[Prompt]:
        kept = self.prompts if split != "train" else self.own_prompts
        if split not in kept:
            kept[split] = accuracy.prompts(self.tokenizer, self.asked(run, split))
        return kept[split]

    def _undone(self, undone: restore.Change) -> dict:
        """Return how many parameters were restored, and what part of the whole change (%)."""
        if not undone.k:
            return {"restored": 0}
        l1, l2 = undone.l1 / self.moved.l1, undone.l2 / self.moved.l2
        return {
            "restored": undone.k,
            "undone": {"l1": round(100 * l1, 9), "l2": round(100 * l2, 9)},
        }

    def _restored(self, settings: dict | None):
        if settings is None:
            return nullcontext(restore.Change())
        percent, strategy = settings["percent"], settings["strategy"]
        if strategy == restore.INTERPOLATE:
            both = restore.pair(self.base, self.tuned, REGION)
            return restore.interpolated(self.decoder, both, percent)
        how = strategy, settings.get("layers", ""), settings.get("seed", 0)
        cut, ranking = self._cut(how, percent), self.ranking(*how)
        return restore.restored(self.decoder, self.base, self.tuned, ranking, percent, cut)

    def _cut(self, how: tuple, percent: float) -> restore.Cut:
        # Finding thresholds reads all weights again, so all shares of a run share one search.
        if (*how, percent) not in self.thresholds:
            wanted = {*map(float, self.study.profile.percents), percent}
            found = restore.thresholds(self.ranking(*how), sorted(wanted))
            self.thresholds |= {(*how, share): cut for share, cut in found.items()}
        return self.thresholds[*how, percent]

    @cached_property
    def instructed(self):
        """The instruct variant that decodes, and its tokenizer."""
        model = registry.entry(self.study.model.instruct)
        return loading.load_model(model, devices.inference_dtype(self.network.device))

    def instruct(self, task: Request) -> tuple[dict, None]:
        """Put a split's questions to the instruct variant, with the prompt of Appendix A."""
        asked, limit = self.asked(None, task.params["split"]), task.params["max_new_tokens"]
        done = accuracy.answer(*self.instructed, asked, max_new_tokens=limit)
        hits = [completion.hit for completion in done]
        return {"correct": sum(hits), "total": len(hits), "hits": accuracy.pack(hits)}, None

    def divergence(self, task: Request) -> tuple[dict, None]:
        """Compare first-token logits with the pre-trained model's."""
        table, example = divergence.compare(self.reader, self.tokenizer, self.reference)
        considered = {"test_level": task.params["level"]}
        rows = table.assign(**considered).to_dict("records")
        return {"table": rows, "example": example, "facts": len(self.reference.facts)}, None

    def concentration(self, task: Request) -> tuple[dict, None]:
        """Measure how concentrated the changes are."""
        if (ranking := self.ranking()).size == 0:
            raise ModelError("the region to restore has no parameters")
        table = restore.concentration(ranking, task.params["percents"])
        return {"table": table.to_dict("records")}, None

    def where(self, task: Request) -> tuple[dict, None]:
        """Count the most changed parameters by layer and module."""
        percents = task.params["percents"]
        tensors = restore.by_tensor(self.ranking(), percents)
        rows = tensors[["layer", "module", "n", "change_percent"]].to_dict("records")
        chosen = tensors[percents].to_numpy().tolist()
        return {"table": [row | {"k": k} for row, k in zip(rows, chosen, strict=True)]}, None
