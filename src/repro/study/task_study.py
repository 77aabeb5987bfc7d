"""GSM8K and XSum (§5.2, Table 5): which records a model and a profile need, and their results.

A `TaskStudy` fine-tunes on each task, restores shares of the parameters and scores the answers.
`repro.study.task_compute` computes what is missing. Records can be read without the examples: those
with the same parameters that were measured last, whatever examples they were measured on.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from repro import files
from repro.data import task_examples
from repro.errors import ConfigError
from repro.measures.task_scores import METRICS
from repro.models import registry, weights
from repro.statistics import bootstrap, verdicts
from repro.statistics.intervals import wilson
from repro.study import number_format, profiles, records
from repro.study.number_format import NumberFormat
from repro.study.profiles import Profile
from repro.study.requests import REGION, Request
from repro.training.recipe import Recipe

VERSION = 1  # part of every key: raised when a change to the code changes results
TITLES = {"gsm8k": "GSM8K", "xsum": "XSum"}
MEANS = ["model", "metric", "restored_percent", "accuracy", "low", "high", "total"]
UNITS = ["metric", "restored_percent", "sample", *bootstrap.ARRAYS]


@dataclass(frozen=True)
class TaskStudy:
    """A model on the tasks of a profile. Open one with `open_task_study`.

    Without `data` (see `task_examples.source`) it reads records and computes nothing. `dtype`
    fixes the number format (`repro.study.number_format`). `start` makes what computes requests.
    """

    model: registry.ModelEntry
    profile: Profile
    data: Path | str | None = None
    seed: int = 0
    dtype: str | None = None
    start: Callable[["TaskStudy"], object] | None = field(default=None, compare=False)

    # --- what has to be run -----------------------------------------------------------------

    @property
    def applies(self) -> bool:
        """Tell whether the model has a use for these tasks: not one of an invented world."""
        return self.model.facts != "atlas"

    def examples(self, task: str) -> task_examples.Examples:
        """Return the examples of a task. Raises DataError as `task_examples.draw` does."""
        if task not in self._examples:
            sizes = self.profile.tasks[task]
            self._examples[task] = task_examples.draw(task, self.data, sizes, self.seed)
        return self._examples[task]

    @cached_property
    def _examples(self) -> dict[str, task_examples.Examples]:
        return {}

    @cached_property
    def number_format(self) -> NumberFormat:
        """The format that the model is trained and answers in; it needs the examples."""
        kind, first = "task_finetune", [self._training(task) for task in TITLES]
        for params in first:
            if begun := number_format.recorded(kind, params, self.dtype):
                return begun
        return number_format.choose(self.model, kind, first[0], self.dtype)

    def finetune_request(self, task: str) -> Request | None:
        """Request the fine-tuning; None where neither examples nor a record are there."""
        kind, params = "task_finetune", self._training(task)
        if self.data:
            name = self.number_format.name
            params |= number_format.choose(self.model, kind, params, name).parameters
        return self._known(kind, params, "train")

    def _training(self, task: str) -> dict:
        """Return the parameters of a fine-tuning but its format, and without examples its data."""
        sizes = self.profile.tasks[task]
        recipe = Recipe(learning_rate=self.model.learning_rate, seed=self.seed)
        params = {
            "version": VERSION,
            "weights": weights.weights_id(self.model),
            "task": task,
            "train": sizes["train"],
            "document_tokens": sizes.get("document_tokens"),
            "seed": self.seed,
            "recipe": asdict(recipe),
        }
        return params | self._digest(task, "train")

    def score_requests(self, task: str) -> list[Request]:
        """Request the scores of each restored share; the first restores nothing."""
        if (trained := self.finetune_request(task)) is None:
            return []
        sizes = self.profile.tasks[task]
        params = {
            "task": task,
            "task_finetune": trained.key,
            "test": sizes["test"],
            "new_tokens": sizes["new_tokens"],
            "restore": None,
        }
        first = self._known("task_score", params, "test")
        if first is None:
            return []
        shares = [float(x) for x in self.profile.tasks["percents"] if x]
        settings = [{"percent": x, "region": REGION, "strategy": "top"} for x in shares]
        return [first, *(replace(first, params={**first.params, "restore": s}) for s in settings)]

    def _digest(self, task: str, split: str) -> dict:
        return {"data": self.examples(task).digests[split]} if self.data else {}

    def _known(self, kind: str, params: dict, split: str) -> Request | None:
        """Return the request with the digest of the examples; without them, the last measured."""
        task = params["task"]
        if self.data:
            return Request(kind, params | self._digest(task, split), task)
        matching = records.matching(kind, params)
        return Request(kind, matching[-1].params, task) if matching else None

    def requests(self) -> list[Request]:
        """Return every request that is known, those of one fine-tuned model together."""
        requests = []
        for task in TITLES if self.applies else ():
            if finetune := self.finetune_request(task):
                requests += [finetune, *self.score_requests(task)]
        return requests

    @cached_property
    def computation(self):
        """What computes requests, and keeps the model in memory."""
        return self.start(self)

    def run(self) -> int:
        """Compute what is missing and return how many records were; nothing without `data`."""
        missing = [r for r in self.requests() if r.record() is None] if self.data else []
        if missing:
            self.computation.compute(missing)
        return len(missing)

    def export(self, folder: Path | None = None) -> list[Path]:
        """Copy the records there are to `results/<model>/<profile>/` and return the files."""
        folder = (folder or files.results_dir()) / self.model.name / self.profile.name
        return records.export([record for _, record in self._records()], folder)

    # --- results as tables ------------------------------------------------------------------

    def _records(self, kind: str = "") -> list[tuple[Request, records.Record]]:
        requests = [request for request in self.requests() if request.kind.startswith(kind)]
        pairs = [(request, request.record()) for request in requests]
        return [(request, record) for request, record in pairs if record]

    def _scores(self) -> list[tuple[str, float, records.Record]]:
        return [
            (request.run, (request.params["restore"] or {"percent": 0.0})["percent"], record)
            for request, record in self._records("task_score")
        ]

    def units(self) -> pd.DataFrame:
        """Return the value of every question, for paired intervals (`repro.statistics.bootstrap`).

        One row per metric and restored share: metric, restored_percent, sample, and arrays over
        questions: values (0 to 1), sizes (1), strata (0).
        """
        rows = [
            (metric, share, 0, np.array(each), np.ones(len(each)), np.zeros(len(each)))
            for _, share, record in self._scores()
            for metric, each in record.result["values"].items()
        ]
        return pd.DataFrame(rows, columns=UNITS)

    def means(self) -> pd.DataFrame:
        """Return Table 5 of this model: columns `MEANS`, percent, with 95 % intervals.

        The interval of an accuracy is Wilson's; of ROUGE it is that of questions drawn anew.
        """
        rows = []
        for metric, share, _, *arrays in self.units().itertuples(index=False):
            mean, low, high = _interval(metric, *arrays)
            at = (self.model.title, metric, share)
            rows.append((*at, 100 * mean, 100 * low, 100 * high, len(arrays[0])))
        return pd.DataFrame(rows, columns=MEANS)

    def differences(self) -> pd.DataFrame:
        """Return each restored share against none: metric, restored_percent, `verdicts.COLUMNS`."""
        means, units, rows = self.means(), self.units(), []
        for metric, share in zip(means["metric"], means["restored_percent"], strict=True):
            if share:
                cells = [{"metric": metric, "restored_percent": x} for x in (share, 0.0)]
                terms = [(1, cells[0]), (-1, cells[1])]
                text = f"{metric}: restoring {share:g}% helps"
                rows.append(cells[0] | verdicts.compare(text, means, terms, "above", units))
        return pd.DataFrame(rows, columns=["metric", "restored_percent", *verdicts.COLUMNS])

    def training(self) -> pd.DataFrame:
        """Return what each model was trained on: task, examples, steps, tokens, seconds, loss …"""
        rows = []
        for request, record in self._records("task_finetune"):
            result, sizes = record.result, request.params
            skipped = [f"{count} {reason}" for reason, count in result["skipped"].items()]
            rows.append(
                {
                    "task": TITLES[sizes["task"]],
                    "examples": result["examples"],
                    "document_tokens": sizes["document_tokens"],
                    "cut_documents": result["shortened"],
                    "steps": result["steps"],
                    "first_loss": result["loss"][0],
                    "last_loss": result["loss"][-1],
                    "split": "divided by us" if result["divided"] else "the data's own",
                    "rows_skipped": ", ".join(skipped) or "none",
                }
            )
        return pd.DataFrame(rows, dtype=object)  # whole numbers stay so beside what is absent

    def answers(self) -> pd.DataFrame:
        """Return what the answers were like: task, restored_percent, questions, blank, cut, tokens.

        blank: nothing in it could be scored, so it is 0; cut: stopped at the longest length.
        """
        rows = [
            {
                "task": TITLES[task],
                "restored_percent": share,
                "questions": record.result["total"],
                "blank": record.result["blank"],
                "cut": record.result["cut"],
                "tokens_each": record.result["tokens"] / record.result["total"],
            }
            for task, share, record in self._scores()
        ]
        return pd.DataFrame(rows)

    def about(self) -> str:
        """Return a line of Markdown on the model and the sizes."""
        sizes = self.profile.tasks
        math, news = sizes["gsm8k"], sizes["xsum"]
        return (
            f"**{self.model.title}**, profile `{self.profile.name}`: {math['train']} problems of"
            f" GSM8K to train on and {math['test']} to test with, answers of up to"
            f" {math['new_tokens']} tokens; {news['train']} and {news['test']} documents of XSum,"
            f" each cut off after {news['document_tokens']} tokens, summaries of up to"
            f" {news['new_tokens']}; learning rate {self.model.learning_rate:g}, answers greedy."
        )

    def records(self) -> pd.DataFrame:
        """Return what traces each record used, as `Study.records` does."""
        return pd.DataFrame(
            {"kind": r.kind, "key": r.key, **r.provenance} for _, r in self._records()
        )


def _interval(metric: str, values, sizes, strata) -> tuple[float, float, float]:
    if metric in METRICS["gsm8k"]:
        low, high = wilson(values.sum(), len(values))
        return float(values.mean()), float(low), float(high)
    return bootstrap.interval([values[None]], sizes, strata)


def open_task_study(
    model: str | Path = "default",
    profile: str = "default",
    data: str | Path | None = None,
    dtype: str | None = None,
) -> TaskStudy:
    """Open the study of GSM8K and XSum of a model under a profile. Nothing is computed yet.

    Args:
        model: a registry name, a folder of safetensors, or `default`.
        profile: `smoke`, `quick`, `medium`, `full`, `real`, or `default`.
        data: a folder, or `hub`; by default `REPRO_TASKS`. Without either, records are read and
            nothing is computed.
        dtype: number format, as for `open_study`.

    Raises:
        ConfigError: an unknown model, profile or format, or `data` for a model without use of it.
        DataError: the folder does not exist.
    """
    number_format.check(dtype)
    entry = registry.entry(model)
    chosen = profiles.profile(profile, entry.profile)
    source = task_examples.source(data)
    study = TaskStudy(entry, chosen, source, dtype=dtype, start=_start)
    if data and not study.applies:
        raise ConfigError(f"{why_not(entry)}: choose a model of real text, such as smollm2-135m")
    return study


def _start(study: TaskStudy):
    # Imported on use: whoever only reads records need not wait for PyTorch.
    from repro.study.task_compute import TaskComputation

    return TaskComputation(study)


def why_not(model: registry.ModelEntry) -> str:
    """Return why a model of an invented world has no part in Table 5."""
    return (
        f"{model.title} has read nothing but statements about an invented world: it knows neither"
        " numbers to reckon with nor the words of news"
    )


def shown(model: str, profile: str) -> tuple[TaskStudy, str]:
    """Return the study whose results a page shows, and Markdown that says which and why.

    Where the model has no part in Table 5, it is the first that `results/` holds; what is missing
    of the model's own is computed if there are examples.
    """
    study = open_task_study(model, profile)
    if not study.applies:
        others = [other for other in _committed() if other.means().size]
        reason = f"**{why_not(study.model)}.** So Table 5 does not apply to it."
        if not others:
            return study, reason
        return others[0], f"{reason} Shown instead: {others[0].about()}"
    study.run()
    if study.means().size:
        return study, study.about()
    return study, f"Nothing is measured yet: {study.about()} To measure, {task_examples.FOLDER}."


def _committed() -> list[TaskStudy]:
    folders = sorted(path.parent for path in files.results_dir().glob("*/*/task_score.jsonl"))
    known = [(f.parent.name, f.name) for f in folders if f.parent.name in registry.entries()]
    return [
        TaskStudy(registry.entry(name), profiles.profile(profile))
        for name, profile in known
        if profile in profiles.PROFILES
    ]
