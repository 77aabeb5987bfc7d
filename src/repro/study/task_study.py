"""The study of GSM8K and XSum (§5.2, Table 5): the records that a model and a profile need.

A `TaskStudy` fine-tunes on each task, restores shares of the parameters and scores the answers.
`repro.study.task_compute` computes missing records, `repro.study.task_results` makes frames of the
records. Records can be read without the examples: of those with the same parameters but for the
examples, the last one is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from repro import files
from repro.data import task_examples
from repro.data.task_examples import TASKS
from repro.errors import ConfigError, DataError
from repro.measures import task_scores
from repro.models import registry, weights
from repro.study import number_format, profiles, records
from repro.study.number_format import NumberFormat
from repro.study.profiles import Profile
from repro.study.requests import REGION, Request, finished, missing
from repro.study.task_results import TaskResults
from repro.training.recipe import Recipe

if TYPE_CHECKING:  # it loads PyTorch
    from repro.study.task_compute import TaskComputation

VERSION = 1  # part of every key: raised when a change to the code changes results


@dataclass(frozen=True)
class TaskStudy:
    """A model on the tasks of a profile. Open one with `open_task_study`.

    The attributes are those of `Study`, but `data` is the source of examples
    (`task_examples.source`). Without it, records are read and nothing is computed.
    """

    model: registry.ModelEntry
    profile: Profile
    data: Path | str | None = None
    seed: int = 0
    dtype: str | None = None
    start: Callable[[TaskStudy], TaskComputation] | None = field(default=None, compare=False)

    @property
    def applies(self) -> bool:
        """Tell whether the model can learn these tasks: not if it knows only an invented world."""
        return self.model.facts != "atlas"

    def examples(self, task: str) -> task_examples.Examples:
        """Return the examples of a task. Raises DataError as `task_examples.draw` does."""
        if task not in self._examples:
            if self.data is None:
                raise DataError(f"there are no examples of {task}: {task_examples.FOLDER}")
            sizes = self.profile.tasks[task]
            self._examples[task] = task_examples.draw(task, self.data, sizes, self.seed)
        return self._examples[task]

    @cached_property
    def _examples(self) -> dict[str, task_examples.Examples]:
        return {}

    @cached_property
    def number_format(self) -> NumberFormat:
        """The number format in which the model is trained and answers. It needs the examples."""
        kind, first = "task_finetune", [self._training(task) for task in TASKS]
        for params in first:
            if begun := number_format.recorded(kind, params, self.dtype):
                return begun
        return number_format.choose(self.model, kind, first[0], self.dtype)

    def finetune_request(self, task: str) -> Request | None:
        """Request the fine-tuning; None if there are neither examples nor a record."""
        kind, params = "task_finetune", self._training(task)
        if self.data:
            name = self.number_format.name
            params |= number_format.choose(self.model, kind, params, name).parameters
        return self._known(kind, params, "train")

    def _training(self, task: str) -> dict:
        """Return the parameters of a fine-tuning without its format (and data, if not known)."""
        sizes = self.profile.tasks[task]
        rate = self.model.learning_rates.get("tasks", self.model.learning_rate)
        recipe = Recipe(learning_rate=rate, seed=self.seed)
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
        """Request the scores of each restored share; the first is without restoration."""
        if (trained := self.finetune_request(task)) is None:
            return []
        sizes = self.profile.tasks[task]
        params = {
            "task": task,
            "task_finetune": trained.key,
            "test": sizes["test"],
            "new_tokens": sizes["new_tokens"],
            "scoring": task_scores.VERSION,
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
        """Return every known request, those of one fine-tuned model together."""
        requests = []
        for task in TASKS if self.applies else ():
            if finetune := self.finetune_request(task):
                requests += [finetune, *self.score_requests(task)]
        return requests

    @cached_property
    def results(self) -> TaskResults:
        """The records as frames."""
        return TaskResults(self)

    @cached_property
    def computation(self) -> TaskComputation:
        """The object that computes requests, and keeps the model in memory."""
        if self.start is None:
            raise ConfigError("this study only reads records: open it with `open_task_study`")
        return self.start(self)

    def run(self) -> int:
        """Compute missing records and return their number; without `data`, none is computed."""
        absent = missing(self.requests()) if self.data else []
        return self.computation.compute(absent) if absent else 0

    def export(self, folder: Path | None = None) -> list[Path]:
        """Copy the existing records to `results/<model>/<profile>/` and return the files."""
        folder = (folder or files.results_dir()) / self.model.name / self.profile.name
        return records.export(finished(self.requests()), folder)

    def records(self) -> pd.DataFrame:
        """Return the origin of each record, as `Study.records`."""
        return records.origins(finished(self.requests()))


def open_task_study(
    model: str | Path = "default",
    profile: str = "default",
    data: str | Path | None = None,
    dtype: str | None = None,
) -> TaskStudy:
    """Open the study of GSM8K and XSum of a model under a profile. This computes nothing.

    Args:
        model: a registry name, a folder of safetensors, or `default`.
        profile: `smoke`, `quick`, `medium`, `full`, `real`, or `default`.
        data: a folder, or `hub`; by default `REPRO_TASKS`. Without either, records are read and
            nothing is computed.
        dtype: number format, as for `open_study`.

    Raises:
        ConfigError: an unknown model, profile or format, or a model that cannot learn the tasks.
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


def _start(study: TaskStudy) -> TaskComputation:
    # Imported on use, because programs that only read records need no PyTorch.
    from repro.study.task_compute import TaskComputation

    return TaskComputation(study)


def why_not(model: registry.ModelEntry) -> str:
    """Return why a model of an invented world has no part in Table 5."""
    return (
        f"{model.title} was trained only on statements about an invented world: it knows neither"
        " arithmetic nor the words of news"
    )
