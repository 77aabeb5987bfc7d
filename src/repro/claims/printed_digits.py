"""Conclusions from the printed digits of the paper's tables.

A table that is rounded to two decimals tells more than its numbers: whether they can be counts over
so many facts, whether a mean can come from its parts, whether a ratio was computed in few bits.
`repro.claims.digit_checks` checks claims by these conclusions.
"""

import numpy as np
import pandas as pd

from repro import paper
from repro.paper import LARGE_SIZE

ROUNDING = 0.005  # half a unit of the last digit of every table
DRAWS, SEED = 1000, 0  # random rows with which Table 3 is compared
TABLE_4_MODEL = "LLaMA-3-8B"
RUNS = 3  # runs of which a table is assumed to be the mean, because of its digits (`repetitions`)


def with_spread(restore: pd.DataFrame) -> pd.DataFrame:
    """Add the spread that Table 2 prints to the same models in rows of Table 4; NaN elsewhere.

    Only Table 2 prints a spread, for the models trained on 1,920 facts, before restoration.
    """
    second = paper.table("accuracy_1920").query("model == @TABLE_4_MODEL and test_level == 'mean'")
    spread = second[["split", "train_level", "spread"]].assign(
        train_size=LARGE_SIZE, restored_percent=0
    )
    keys = ["split", "train_level", "train_size", "restored_percent"]
    return restore.merge(spread, on=keys, how="left").assign(n=RUNS)


def repetitions(runs: int) -> pd.DataFrame:
    """Return every testable cell of Table 2 and whether it can be a mean over `runs` runs (§3.3).

    The accuracy of a level is a count over its facts (Tables 1 and 8), so such a mean is a multiple
    of 1 / (facts · runs). A cell is testable if at most half of all numbers with two decimals are
    such multiples. Columns: llm, split, train_level, test_level, accuracy, fits, chance.
    """
    cells = paper.table("accuracy_1920").query("test_level != 'mean'").astype({"test_level": int})
    facts = paper.table("distribution").rename(columns={"level": "test_level", "count": "facts"})
    cells = cells.merge(facts, on=["model", "split", "test_level"], validate="m:1")
    cells = _fitting(cells.rename(columns={"model": "llm"}), cells["facts"] * runs)
    columns = ["llm", "split", "train_level", "test_level", "accuracy", "fits", "chance"]
    return cells.loc[cells["chance"] <= 0.5, columns].reset_index(drop=True)


def by_runs(most: int = 5) -> pd.DataFrame:
    """Return how many cells of Table 2 fit each number of runs: runs, cells, fit, by_chance (%)."""
    rows = [
        (runs, len(cells), 100 * cells["fits"].mean(), 100 * cells["chance"].mean())
        for runs in range(1, most + 1)
        for cells in [repetitions(runs)]
    ]
    return pd.DataFrame(rows, columns=["runs", "cells", "fit", "by_chance"])


def by_model(runs: int) -> pd.DataFrame:
    """Return how many cells of each model of Table 2 fit: llm, train_level, cells, fit."""
    groups = repetitions(runs).groupby(["llm", "train_level"], sort=False)["fits"]
    return groups.agg(cells="size", fit="sum").reset_index()


def single_runs() -> pd.DataFrame:
    """Return every cell of Table 6 and whether it is a count over its training facts.

    Columns: those of the table, fits, and chance, the share of means over three runs that would be
    such counts.
    """
    cells = paper.table("restore_train")
    return _fitting(cells, cells["train_size"]).assign(chance=1 / 3)


def _fitting(cells: pd.DataFrame, trials: pd.Series) -> pd.DataFrame:
    """Add whether each accuracy (percent) is a multiple of 1 / trials, and the chance of that."""
    nearest = 100 * (cells["accuracy"] * trials / 100).round() / trials
    fits = (nearest - cells["accuracy"]).abs() <= ROUNDING + 1e-9
    return cells.assign(fits=fits, chance=(2 * ROUNDING * trials / 100).clip(upper=1))


def level_means() -> pd.DataFrame:
    """Return Acc of every row of Table 2 as printed and as the mean of its five levels (§3.3)."""
    table = _table_2("accuracy")
    return table.assign(computed=table[list("01234")].mean(axis=1)).rename(
        columns={"mean": "printed"}
    )[["llm", "split", "train_level", "printed", "computed"]]


def spreads(root: bool = False) -> pd.DataFrame:
    """Return the spread of Acc and its largest possible value, for every row of Table 2.

    The deviation of a mean is never more than the mean of the deviations. With `root`, the printed
    numbers are taken as variances. Columns: llm, split, train_level, printed, most.
    """
    table = _table_2("spread")
    numbers = table[[*"01234", "mean"]]
    numbers = np.sqrt(numbers) if root else numbers
    most = numbers[list("01234")].mean(axis=1)
    return table[["llm", "split", "train_level"]].assign(printed=numbers["mean"], most=most)


def _table_2(values: str) -> pd.DataFrame:
    keys = ["model", "split", "train_level"]
    table = paper.table("accuracy_1920").pivot(index=keys, columns="test_level", values=values)
    return table.reset_index().rename(columns={"model": "llm"}).rename_axis(columns=None)


def reruns() -> pd.DataFrame:
    """Return Acc of the same models, by Table 2 and by Table 4, with Table 2's spread.

    LLaMA-3-8B after 1,920 facts: split, train_level, table_2, table_4, spread.
    """
    second = paper.table("accuracy_1920").query("model == 'LLaMA-3-8B' and test_level == 'mean'")
    fourth = paper.table("restore").query("train_size == 1920 and restored_percent == 0")
    keys = ["split", "train_level"]
    tables = second.merge(fourth, on=keys, suffixes=("_2", "_4"), validate="1:1")
    names = {"accuracy_2": "table_2", "accuracy_4": "table_4"}
    return tables.rename(columns=names)[[*keys, "table_2", "table_4", "spread"]]


def bfloat16() -> pd.DataFrame:
    """Return how well each row of Table 3 fits ratios of sums in bfloat16 (8 bits).

    Columns: train_size, train_level, divisor (the best one), shares (in the row), fits (how many of
    them it gives to the last digit), by_chance (the most in `DRAWS` rows of random digits).
    """
    table = paper.table("concentration").pivot(
        index=["train_size", "train_level"],
        columns="top_percent",
        values="share_of_change_percent",
    )
    generator, rows = np.random.default_rng(SEED), []
    for shares in table.to_numpy():
        random = (shares + generator.uniform(-0.5, 0.5, (DRAWS, len(shares)))).round(2)
        fits = _ratios(shares[None])[0]
        best = int(fits.argmax())
        rows.append((128 + best, len(shares), fits[best], _ratios(random).max()))
    columns = ["divisor", "shares", "fits", "by_chance"]
    return pd.DataFrame(rows, columns=columns, index=table.index).reset_index()


def _ratios(rows: np.ndarray) -> np.ndarray:
    """Count the shares that each divisor gives: (rows, 128), for rows of percentages.

    Numbers of eight significant bits are whole between 128 and 255, and halves between 64 and 127.
    """
    divisors = np.arange(128, 256)
    numerators = rows[:, None, :] * divisors[:, None] / 100
    step = np.where(numerators < 128, 0.5, 1.0)
    nearest = 100 * (numerators / step).round() * step / divisors[:, None]
    return (np.abs(nearest - rows[:, None, :]) <= ROUNDING + 1e-9).sum(axis=2)


def block_distances() -> pd.DataFrame:
    """Return the distances of Table 11 from the unrestored models of Table 4, by their size.

    It is the median distance in points over the middle blocks (layers 4 to 27), whose restoration
    changes least. Columns: train_level, train_size (240 or 1,920), distance.
    """
    blocks = paper.table("layer_restore").query("restored_layers not in ['0-3', '28-31']")
    before = paper.table("restore").query("split == 'test' and restored_percent == 0")
    pairs = blocks.merge(before, on="train_level", suffixes=("", "_before"))
    distance = (pairs["accuracy"] - pairs["accuracy_before"]).abs()
    groups = pairs.assign(distance=distance).groupby(["train_level", "train_size"])
    return groups["distance"].median().reset_index()
