"""The facts of a study with their mastery: the questions of a split, the facts of a run."""

from functools import cached_property

import pandas as pd

from repro.data.facts import choose
from repro.measures import accuracy
from repro.measures.accuracy import Cells
from repro.measures.divergence import level_compared
from repro.study.requests import MIXED, Run

ENOUGH = 10  # fewest facts of a level whose divergence is compared (§4.1)


class Pools:
    """Facts by split and level, and those on which each run is trained.

    Frames have rows and columns of `Results.mastery`, sorted by fact_id, which is also the order of
    the answers in a record.
    """

    def __init__(self, mastery: pd.DataFrame, seed: int):
        """Take every fact with its mastery, and the study's seed."""
        self.mastery, self.seed = mastery, seed
        ordered = mastery.sort_values("fact_id")
        self._splits = {
            split: rows.reset_index(drop=True) for split, rows in ordered.groupby("split")
        }
        self._training: dict[Run, pd.DataFrame] = {}
        self._cells: dict[Run | str, Cells] = {}

    def sizes(self) -> dict[int, int]:
        """Return the number of training facts by level."""
        train = self.mastery[self.mastery["split"] == "train"]
        return train["level"].value_counts().to_dict()

    def compared_level(self) -> int:
        """Return the mastery level of the facts that §4.1 compares: 4 where there are enough."""
        return self._compared_level

    @cached_property
    def _compared_level(self) -> int:
        return level_compared(self.mastery[self.mastery["split"] == "test"], ENOUGH)

    def facts(self, run: Run | None, split: str) -> pd.DataFrame:
        """Return the facts of a split; for `train` and a run those on which it is trained."""
        if split != "train" or run is None:
            return self._splits[split]
        if run not in self._training:  # stored, because drawing hashes every fact of the pool
            pool = self._splits["train"]
            if run.level != MIXED:
                pool = pool[pool["level"] == run.level]
            self._training[run] = choose(pool, run.size, run.sample, self.seed)
        return self._training[run]

    def cells(self, run: Run | None, split: str) -> Cells:
        """Return the topics and levels of these facts (`repro.measures.accuracy.cells_of`)."""
        name = run if run and split == "train" else split
        if name not in self._cells:
            self._cells[name] = accuracy.cells_of(self.facts(run, split))
        return self._cells[name]
