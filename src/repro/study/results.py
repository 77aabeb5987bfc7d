"""The records of a study as tidy frames, one method for each kind of measurement.

The columns train_level (−1: the pre-trained model, −2: facts of all levels), train_size,
size_label, sample and run of a frame identify the run of each row. Missing records are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from repro import paper
from repro.errors import ConfigError
from repro.measures import accuracy, mastery
from repro.study.records import Record
from repro.study.requests import BASE, MIXED, Request, Run, finished

if TYPE_CHECKING:  # it imports this module
    from repro.study.study import Study

# The columns of a frame of counts without rows.
NO_COUNTS = [
    *("train_level", "train_size", "sample", "topic", "test_level"),
    *("restored_percent", "split", "correct", "total"),
]


class Results:
    """Frames of one study."""

    def __init__(self, study: Study):
        """Take a `repro.study.Study`."""
        self.study = study
        self._accuracy: pd.DataFrame | None = None

    def mastery(self) -> pd.DataFrame:
        """Return DataFrame[fact_id, topic, split, hits, trials, rate, level, t00 …]."""
        return self.study.pools.mastery.copy()

    def distribution(self) -> pd.DataFrame:
        """Return the facts by split and level (Tables 1, 8): [model, split, level, count]."""
        table = mastery.distribution(self.study.pools.mastery, paper.SPLITS)
        return table.assign(model=self.study.model.title)[["model", "split", "level", "count"]]

    def natural_distribution(self) -> pd.DataFrame:
        """Return the estimated distribution of levels over all facts (Tables 1, 8).

        For a study whose facts were chosen by score, it has the columns model, split, level, drawn
        (facts), share of all facts in percent, and low and high, its 95 % interval. For other
        studies it is empty, because the facts of `distribution` are drawn at random.
        """
        columns = ["model", "split", "level", "drawn", "share", "low", "high"]
        if not self.study.choice:
            return pd.DataFrame(columns=columns)
        levels = self.study.pools.mastery  # computes the scores, where they are missing
        [record] = finished([self.study.choice.request()])
        table = self.study.choice.estimate(levels, record)
        return table.assign(model=self.study.model.title)[columns]

    def scored(self) -> pd.DataFrame:
        """Return every fact that was scored; no row if facts were not chosen by score.

        Columns: fact_id, topic, split, score (nats), band. Facts that were drawn also have a level
        and a weight, the number of facts that one stands for.
        """
        if not self.study.choice:
            columns = ["fact_id", "topic", "split", "score", "band", "level", "weight"]
            return pd.DataFrame(columns=columns)
        levels = self.study.pools.mastery  # computes the scores, where they are missing
        [record] = finished([self.study.choice.request()])
        return self.study.choice.weighted(levels, record)

    def accuracy(self, requests: Iterable[Request] | None = None) -> pd.DataFrame:
        """Return answers by topic and level, by default of every run, restored or not (Table 4).

        Columns: model, train_level, train_size, size_label, sample, restored_percent, split, topic,
        test_level, correct, total.
        """
        if requests is not None:
            return _counts(self.study, list(requests))
        if self._accuracy is None:  # stored, because several tables are made from it
            self._accuracy = _counts(self.study, paper_requests(self.study))
        return self._accuracy.copy()

    def strategy(self, runs: list[Run]) -> pd.DataFrame:
        """Return answers of the runs of a strategy of Table 7, with the columns of `accuracy`.

        `runs` are those of `Grid.mixed_runs` (facts of all levels) or `Grid.lora_runs` (adapters).
        """
        requests = [request for run in runs for request in self.study.requests.strategy(run)]
        return _counts(self.study, [r for r in requests if r.kind == "accuracy"])

    def instruct(self) -> pd.DataFrame:
        """Return answers of the instruct variant as `accuracy`; an empty frame if there is none."""
        return _counts(self.study, self.study.requests.instruct())

    def controls(self) -> pd.DataFrame:
        """Return test answers of the control runs, whose parameters are chosen by other rules.

        It has the columns of `accuracy` and: strategy (of `repro restore`; `top` is the paper's,
        `none` the share 0), restored (parameters), undone_l1 and undone_l2. The last two are the
        percentages of the sums of |s − p| and of (s − p)² in the region that were undone; they are
        NaN in old records, which do not have them.
        """
        return _counts(self.study, control_requests(self.study), _restoration_columns)

    def layers(self) -> pd.DataFrame:
        """Return answers after restoring groups of layers (Table 11), and without (`none`).

        It has the columns of `controls` and layers, such as `0-3`. restored_percent is 100 if a
        group was restored, because all of its parameters were.
        """
        return _counts(self.study, layer_requests(self.study), _restoration_columns)

    def locations(self) -> pd.DataFrame:
        """Return the numbers of the most changed parameters by layer and module (Tables 9, 10).

        Columns: model and run as in `accuracy`; top_percent; layer; module; n (parameters);
        change_percent (of the sum of all relative changes); k (chosen parameters). Summed over
        modules or layers, 100 k / Σk is the paper's percentage; its ratio to 100 n / Σn is the
        lift.
        """
        requests = [self.study.requests.locations(run) for run in self.study.grid.restored_runs()]
        frame = _frames(self.study, requests, "table").assign(model=self.study.model.title)
        shares = self.study.profile.restored_percents
        frame = frame.assign(top_percent=[shares] * len(frame))
        return frame.explode(["top_percent", "k"], ignore_index=True).infer_objects()

    def answers(self, requests: Iterable[Request] | None = None) -> pd.DataFrame:
        """Return the answer to every question, one row per set of answers, for paired intervals.

        Columns: those of `controls` without topic, test_level, correct and total, and three arrays
        over questions in the order of `Pools.facts`, as `bootstrap` takes them: values (0 or 1),
        sizes (1), strata (mastery levels). Old records without single answers have no row.

        Args:
            requests: by default those of `accuracy`; others are `control_requests` and
                `layer_requests`.
        """
        requests = paper_requests(self.study) if requests is None else list(requests)
        rows = []
        for request, record in zip(requests, _records(self.study, requests), strict=True):
            if "hits" in record.result:
                facts = self.study.pools.facts(request.run, request.params["split"])
                levels = facts["level"].to_numpy()
                hits = accuracy.unpack(record.result["hits"], len(levels)).astype(np.int8)
                columns = {"model": self.study.model.title, **_columns(self.study, request)}
                columns |= _restoration_columns(request, record.result)
                arrays = {"values": hits, "sizes": np.ones_like(hits), "strata": levels}
                rows.append(columns | arrays)
        return pd.DataFrame(rows)

    def learning_rates(self) -> pd.DataFrame:
        """Return dev answers with the columns of `accuracy` and learning_rate."""
        requests, runs = self.study.requests, self.study.grid.rate_runs()
        self.study.compute(r for run in runs for r in requests.learning_rate(run))
        frame = _counts(self.study, [requests.accuracy(run, "dev") for run in runs])
        rates = {run_columns(self.study, run)["run"]: run.learning_rate for run in runs}
        return frame.assign(learning_rate=frame["run"].map(rates) if len(frame) else [])

    def divergence(self) -> pd.DataFrame:
        """Return KL sums by run and topic (Figure 5), in nats: [… topic, facts, kl_sum]."""
        requests = [self.study.requests.divergence(run) for run in self.study.grid.runs()]
        return _frames(self.study, requests, "table").assign(model=self.study.model.title)

    def concentration(self) -> pd.DataFrame:
        """Return Table 3 for our runs: [… top_percent, share_of_change_percent, k, n, …]."""
        requests = [
            self.study.requests.concentration(run) for run in self.study.grid.restored_runs()
        ]
        return _frames(self.study, requests, "table").assign(model=self.study.model.title)

    def losses(self) -> pd.DataFrame:
        """Return the loss curve of every run: [… step, loss]."""
        requests = [self.study.requests.finetune(run) for run in self.study.grid.runs()]
        return _frames(self.study, requests, "losses")


# --- which requests a table needs -----------------------------------------------------------------


def paper_requests(study: Study) -> list[Request]:
    """Return the requests for answers that the paper's tables hold, and those of the base model.

    These are the answers of runs on one level, with nothing restored or with the most changed
    parameters of all layers restored.
    """
    return [
        request
        for request in study.grid.requests(study.requests)
        if request.kind == "accuracy"
        and not (request.run and request.run.level == MIXED)
        and _restored_as_in_the_paper(request.params["restore"])
    ]


def _restored_as_in_the_paper(settings: dict | None) -> bool:
    return not settings or (settings["strategy"], settings.get("layers")) == ("top", None)


def restoration_requests(study: Study, percent: float) -> list[Request]:
    """Return the requests for the answers of every restored run at one share.

    Raises:
        ConfigError: the share is not a percentage.
    """
    if not 0 <= percent <= 100:
        raise ConfigError(f"cannot restore {percent} %: give a percentage from 0 to 100")
    shares = [round(float(percent), 9)]
    return [
        r for run in study.grid.restored_runs() for r in study.requests.restoration(run, shares)
    ]


def control_requests(study: Study) -> list[Request]:
    """Return the requests of the controls, and those of the paper's choice for comparison."""
    requests, runs = study.requests, study.grid.control_runs()
    percents = (0, *study.profile.control_percents)
    of_paper = [requests.accuracy(run, "test", percent) for run in runs for percent in percents]
    return of_paper + [request for run in runs for request in requests.controls(run)]


def layer_requests(study: Study) -> list[Request]:
    """Return the requests of Table 11."""
    return [r for run in study.grid.layer_runs() for r in study.requests.layers(run)]


# --- from records to rows -------------------------------------------------------------------------


def run_columns(study: Study, run: Run | None) -> dict:
    """Return the columns that identify the run of a row."""
    run = run or Run(BASE, 0, 0, 0.0)
    label = "All" if run.size is None else str(run.size)
    name = f"{run.level}/{label}/{run.sample}/{run.learning_rate:g}"
    name += f"/lora {run.rank}" if run.rank else ""
    size = {"train_size": study.grid.size(run), "size_label": label}
    return {"train_level": run.level, **size, "sample": run.sample, "run": name}


def _columns(study: Study, request: Request) -> dict:
    """Return the columns that identify a request: run, restored share and split."""
    columns = run_columns(study, request.run)
    if request.kind in ("accuracy", "instruct"):
        restoration = request.params.get("restore") or {"percent": 0.0}
        columns |= {"restored_percent": restoration["percent"]}
        columns |= {"split": request.params["split"]}
    return columns


def _restoration_columns(request: Request, result: dict) -> dict:
    """Return the columns of what was restored, and of how much of the change this undid."""
    settings = request.params["restore"]
    unknown = dict.fromkeys(("l1", "l2"), np.nan if settings else 0.0)
    undone = result.get("undone") or unknown
    return {
        "strategy": settings["strategy"] if settings else "none",
        "layers": settings.get("layers", "all") if settings else "none",
        "restored": result["restored"],
        "undone_l1": undone["l1"],
        "undone_l2": undone["l2"],
    }


def _records(study: Study, requests: list[Request]) -> list[Record]:
    study.compute(requests)
    return finished(requests)


def _counts(
    study: Study, requests: list[Request], further_columns: Callable | None = None
) -> pd.DataFrame:
    frame = _frames(study, requests, "counts", further_columns)
    return frame.assign(model=study.model.title) if len(frame) else pd.DataFrame(columns=NO_COUNTS)


def _frames(
    study: Study, requests: list[Request], part: str, further_columns: Callable | None = None
) -> pd.DataFrame:
    """Return a part of every record's result as rows, with the columns of its request.

    `further_columns` returns further columns for (request, result).
    """
    tables, corrects, columns = [], [], []
    for request, record in zip(requests, _records(study, requests), strict=True):
        table, correct = _table(study, request, record.result, part)
        tables.append(table)
        corrects.append(correct)
        further = further_columns(request, record.result) if further_columns else {}
        columns.append(_columns(study, request) | further)
    if not tables:
        return pd.DataFrame()
    table_of_row = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    repeated = pd.DataFrame(columns).iloc[table_of_row].reset_index(drop=True)
    frame = _stacked(tables)
    if part == "counts":
        frame["correct"] = np.concatenate([correct for correct in corrects if correct is not None])
    return pd.concat([frame, repeated], axis=1)


def _table(
    study: Study, request: Request, result: dict, part: str
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Return a part of a result, and for `counts` the number of correct answers by row.

    Records of answers to the same questions share one table, because they differ only in these
    numbers.
    """
    if part == "counts" and "hits" in result:  # older records hold the counts themselves
        run_and_split = request.run, request.params["split"]
        facts, cells = study.pools.facts(*run_and_split), study.pools.cells(*run_and_split)
        correct = accuracy.correct(accuracy.unpack(result["hits"], len(facts)), cells)
        return cells[0], correct
    table = pd.DataFrame(result[part])
    return table, table["correct"].to_numpy() if part == "counts" else None


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all tables, one table after another; tables may occur several times.

    Each distinct table is copied once, and its rows are then repeated by their numbers.
    """
    different = {id(table): table for table in tables}
    lengths = [len(table) for table in different.values()]
    starts = dict(zip(different, np.cumsum([0, *lengths]), strict=False))
    rows = [np.arange(len(table)) + starts[id(table)] for table in tables]
    distinct_rows = pd.concat(different.values(), ignore_index=True)
    return distinct_rows.iloc[np.concatenate(rows)].reset_index(drop=True)
