"""The answers of fine-tuned models to single test facts, and intervals over these answers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from repro.statistics import bootstrap
from repro.statistics.contrasts import Comparison
from repro.study import Study

KNOWN = 3  # the lowest level of a fact that counts as known: R is above one half
UNIT = ["train_level", "sample", "values", "sizes", "strata"]


@dataclass(frozen=True)
class Answered:
    """The test facts of a study and the answers of its fine-tuned models.

    Attributes:
        title: of the study.
        measure: the name of the column `before` of `facts`: the score, or R.
        facts: DataFrame[fact_id, topic, level, before], one row for each test fact; `before` is
            measured on the pre-trained model.
        answers: DataFrame[train_level, train_size, sample, restored_percent, values], one row for
            each run and restored share; `values` is an array over facts, 1 right and 0 wrong.
        chosen: whether the facts were chosen by score.
    """

    title: str
    measure: str
    facts: pd.DataFrame
    answers: pd.DataFrame
    chosen: bool = False

    def tuned(self) -> pd.DataFrame:
        """Return the answers of the runs as they were fine-tuned, with nothing restored."""
        return self.answers[self.answers["restored_percent"] == 0]

    def pairs(self, percent: float) -> pd.DataFrame:
        """Return the answers at a restored share, with those without restoration as `before`."""
        keys = ["train_level", "train_size", "sample"]
        restored = self.answers[self.answers["restored_percent"] == percent]
        tuned = self.tuned()[[*keys, "values"]].rename(columns={"values": "before"})
        return restored.merge(tuned, on=keys, validate="1:1")

    def percents(self) -> list[float]:
        """Return the restored shares above 0."""
        return sorted(percent for percent in self.answers["restored_percent"].unique() if percent)


def gather(measured: Study) -> Answered:
    """Return the facts and answers of a study; `before` is the score, or R if there is none."""
    facts = measured.pools.facts(None, "test")[["fact_id", "topic", "level", "rate"]]
    scored = measured.results.scored()
    facts = facts.merge(scored[["fact_id", "score"]], on="fact_id", how="left")
    has_scores = bool(facts["score"].notna().all())
    facts["before"] = facts["score"] if has_scores else facts["rate"]
    requests = [
        measured.requests.accuracy(run, "test", percent)
        for run, percents in _runs(measured)
        for percent in percents
    ]
    columns = ["train_level", "train_size", "sample", "restored_percent", "values"]
    answers = measured.results.answers(requests)
    answers = answers[columns] if len(answers) else pd.DataFrame(columns=columns)
    facts = facts[["fact_id", "topic", "level", "before"]]
    measure, chosen = "score (nats)" if has_scores else "R", measured.choice is not None
    return Answered(_title(measured), measure, facts, answers, chosen)


def _title(measured: Study) -> str:
    return f"{measured.model.title}, {measured.profile.name}"


def _runs(measured: Study) -> list[tuple]:
    """Return the runs of each level at its largest restored size, each with its shares."""
    restored = set(measured.grid.restored_runs())
    largest: dict[int, int] = {}
    for run in restored:
        largest[run.level] = max(run.size, largest.get(run.level, 0))
    return [
        (run, measured.profile.percents if run in restored else (0,))
        for run in measured.grid.runs()
        if run.size is not None and run.size == largest.get(run.level)
    ]


def units_of_runs(runs: pd.DataFrame, values, strata: np.ndarray | None = None) -> pd.DataFrame:
    """Return the units that `bootstrap` redraws, a row for each run; `values` takes a run."""
    rows = []
    for _, run in runs.iterrows():
        values_of_run = np.asarray(values(run), float)
        groups = np.zeros(len(values_of_run), int) if strata is None else np.asarray(strata, int)
        rows.append(
            (run["train_level"], run["sample"], values_of_run, np.ones(len(values_of_run)), groups)
        )
    return pd.DataFrame(rows, columns=UNIT)


def interval_over_levels(units: pd.DataFrame) -> tuple[float, float, float]:
    """Return the mean over training levels with its 95 % interval, in percent."""
    groups = [np.stack(rows["values"].tolist()) for _, rows in units.groupby("train_level")]
    values = [group / len(groups) for group in groups]
    numbers = bootstrap.interval(values, units["sizes"].iloc[0], units["strata"].iloc[0])
    return tuple(100 * float(np.clip(number, 0, 1)) for number in numbers)


def comparison_with_zero(text: str, units: pd.DataFrame, expected: str) -> Comparison:
    """Return the comparison of the mean over training levels with zero."""
    levels = sorted(units["train_level"].unique())
    terms = [(1 / len(levels), {"train_level": level}) for level in levels]
    means = units.assign(accuracy=[100 * values.mean() for values in units["values"]])
    means = means.groupby("train_level")["accuracy"].mean().reset_index()
    return Comparison(text, terms, expected, means.assign(low=np.nan, high=np.nan), units)
