"""The records of GSM8K and XSum as tidy frames (§5.2, Table 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from repro.measures.task_scores import METRICS
from repro.statistics import bootstrap, verdicts
from repro.statistics.intervals import wilson
from repro.study.records import Record
from repro.study.requests import Request

if TYPE_CHECKING:  # it imports this module
    from repro.study.task_study import TaskStudy

TITLES = {"gsm8k": "GSM8K", "xsum": "XSum"}
MEANS = ["model", "metric", "restored_percent", "accuracy", "low", "high", "total"]
UNITS = ["metric", "restored_percent", "sample", *bootstrap.ARRAYS]


class TaskResults:
    """Frames of the existing records of one `TaskStudy`. Nothing is computed."""

    def __init__(self, study: TaskStudy):
        """Take a `repro.study.task_study.TaskStudy`."""
        self.study = study

    def units(self) -> pd.DataFrame:
        """Return the value of every question, for paired intervals (`repro.statistics.bootstrap`).

        One row per metric and restored share: metric, restored_percent, sample, and arrays over
        questions: values (0 to 1), sizes (1), strata (0).
        """
        rows = [
            (metric, share, 0, np.array(values), np.ones(len(values)), np.zeros(len(values)))
            for _, share, record in self._scores()
            for metric, values in record.result["values"].items()
        ]
        return pd.DataFrame(rows, columns=UNITS)

    def means(self) -> pd.DataFrame:
        """Return Table 5 of this model: columns `MEANS`, percent, with 95 % intervals.

        The interval of an accuracy is Wilson's; that of ROUGE is by redrawn questions.
        """
        rows = []
        for metric, share, _, *arrays in self.units().itertuples(index=False):
            mean, low, high = _interval(metric, *arrays)
            row = (self.study.model.title, metric, share)
            rows.append((*row, 100 * mean, 100 * low, 100 * high, len(arrays[0])))
        return pd.DataFrame(rows, columns=MEANS)

    def differences(self) -> pd.DataFrame:
        """Compare each restored share with none: metric, restored_percent, `verdicts.COLUMNS`."""
        means, units, rows = self.means(), self.units(), []
        for metric, share in zip(means["metric"], means["restored_percent"], strict=True):
            if share:
                cells = [{"metric": metric, "restored_percent": x} for x in (share, 0.0)]
                terms: list[tuple[float, Mapping]] = [(1, cells[0]), (-1, cells[1])]
                text = f"{metric}: restoring {share:g}% helps"
                rows.append(cells[0] | verdicts.compare(text, means, terms, "above", units))
        return pd.DataFrame(rows, columns=["metric", "restored_percent", *verdicts.COLUMNS])

    def training(self) -> pd.DataFrame:
        """Return the training of each model: task, examples, steps, losses, skipped rows …"""
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
        return pd.DataFrame(
            rows, dtype=object
        )  # object: integers stay integers beside missing values

    def answers(self) -> pd.DataFrame:
        """Return the numbers of answers of each task and restored share.

        Columns: task, restored_percent, questions, blank (answers with nothing to score, which
        count 0), cut (answers that reached the longest length), tokens_each.
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

    def _records(self, kind: str) -> list[tuple[Request, Record]]:
        requests = [request for request in self.study.requests() if request.kind == kind]
        pairs = [(request, request.record()) for request in requests]
        return [(request, record) for request, record in pairs if record]

    def _scores(self) -> list[tuple[str, float, Record]]:
        return [
            (request.run, (request.params["restore"] or {"percent": 0.0})["percent"], record)
            for request, record in self._records("task_score")
        ]


def _interval(
    metric: str, values: np.ndarray, sizes: np.ndarray, strata: np.ndarray
) -> tuple[float, float, float]:
    if metric in METRICS["gsm8k"]:
        low, high = wilson(values.sum(), len(values))
        return float(values.mean()), float(low), float(high)
    return bootstrap.interval([values[None]], sizes, strata)
