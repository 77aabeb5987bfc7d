"""Checks of claims by the printed digits of the paper's tables.

The functions return rows of `verdicts.COLUMNS`; `low` and `high` bound what rounding or chance
allow. The `attrs` of the frame hold `count`, the numbers of cells that are as claimed and of all
cells, and `outcome`, the verdict if it does not follow from the rows.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from repro import paper
from repro.claims.printed_digits import (
    ROUNDING,
    RUNS,
    bfloat16,
    block_distances,
    level_means,
    repetitions,
    reruns,
    single_runs,
    spreads,
)
from repro.paper import SPLIT_TITLES
from repro.paper.quotes import quoted
from repro.statistics import multiple, verdicts
from repro.statistics.contrasts import ROUNDING as ROUNDED
from repro.statistics.contrasts import ROUNDING_AND_SPREAD as BOTH
from repro.statistics.intervals import Z95
from repro.statistics.verdicts import (
    COLUMNS,
    CONTRADICTED,
    EXCEPTIONS,
    HOLDS,
    SUPPORTED,
    UNDECIDED,
)


def printed_row(
    runs: str, estimate: float, half: float = 0.0, verdict: str | None = None, way: str = ROUNDED
) -> dict:
    """Return a row of `verdicts.COLUMNS` on printed numbers."""
    values = ["", runs, estimate, estimate - half, estimate + half, way, verdict]
    return dict(zip(COLUMNS, values, strict=True))


def table_of(
    rows: list[dict], count: tuple[int, int] | None = None, outcome: str | None = None
) -> pd.DataFrame:
    """Return rows as a frame, with `count` and `outcome` in its `attrs`."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.attrs |= {"pooled": None, "count": count, "outcome": outcome}
    return table


def equal(runs: str, difference: float, half: float = 0.0) -> dict:
    """Return a row that is supported when `difference` is 0 within `half`."""
    agrees = abs(difference) <= half + 1e-9
    return printed_row(runs, difference, half, SUPPORTED if agrees else CONTRADICTED)


def agrees(value: str, row: dict, above: bool = False) -> dict:
    """Return a row with its verdict: is it the number `value`, to the printed digits?

    With `above`: is it larger?
    """
    half = 0.5 * 10 ** -len(value.partition(".")[2]) + 1e-9
    is_equal = row["low"] <= float(value) + half and float(value) - half <= row["high"]
    holds = row["low"] > float(value) if above else is_equal
    return row | {"verdict": SUPPORTED if holds else CONTRADICTED}


def same_totals(_value: str) -> pd.DataFrame:
    """Compare the facts of each model (Tables 1 and 8) with those of the first."""
    totals = paper.table("distribution").groupby(["split", "model"], sort=False)["count"].sum()
    return table_of(
        [
            equal(f"{model}, {SPLIT_TITLES[split]}: {total:,} facts", total - totals[split].iloc[0])
            for (split, model), total in totals.items()
        ]
    )


def fits_repetitions(value: str) -> pd.DataFrame:
    """Count the cells of Table 2 that can be means over so many runs.

    The claim holds if all cells can be; it holds with exceptions if more can be than by chance;
    otherwise it is contradicted, because a cell that cannot be such a mean is none.
    """
    cells = repetitions(int(value))
    chance, fits = cells["chance"], cells["fits"]
    half = Z95 * np.sqrt((chance * (1 - chance)).sum())
    more_than_chance = fits.sum() > chance.sum() + half
    outcome = HOLDS if fits.all() else EXCEPTIONS if more_than_chance else CONTRADICTED
    cannot = len(cells) - fits.sum()
    text = f"{cannot} of {len(cells)} testable cells cannot be means over {value} runs; of random "
    text += f"digits {len(cells) - chance.sum():.0f} would"
    verdict = CONTRADICTED if outcome == CONTRADICTED else SUPPORTED
    row = printed_row(text, np.nan, verdict=verdict)
    return table_of([row], (int(fits.sum()), len(cells)), outcome)


def is_repeated(_value: str) -> pd.DataFrame:
    """Check that Table 6 has means over runs: not every cell may be a whole number of answers."""
    cells = single_runs()
    whole_cells, expected = int(cells["fits"].sum()), cells["chance"].sum()
    text = f"{whole_cells} of {len(cells)} cells are whole numbers of right answers; of means over "
    text += f"{RUNS} runs {expected:.0f} would be"
    outcome = CONTRADICTED if cells["fits"].all() else UNDECIDED
    row = printed_row(text, np.nan, verdict=outcome)
    return table_of([row], (len(cells) - whole_cells, len(cells)), outcome)


def mean_of_levels(_value: str) -> pd.DataFrame:
    """Compare Acc as printed with the mean of its levels, both rounded."""
    table = level_means()
    differences = zip(table.itertuples(), table["printed"] - table["computed"], strict=True)
    return table_of([equal(_name(row), number, 2 * ROUNDING) for row, number in differences])


def possible_spread(_value: str, root: bool = False) -> pd.DataFrame:
    """Compare the spread of Acc with the most that the spreads of its levels allow.

    With `root`, the printed numbers are taken as variances.
    """
    table, rows = spreads(root), []
    for row in table.itertuples():
        verdict = CONTRADICTED if row.printed - row.most > 2 * ROUNDING else SUPPORTED
        text = f"{_name(row)}: {row.printed:.2f}, and at most {row.most:.2f} is possible"
        rows.append(printed_row(text, np.nan, verdict=verdict))
    return table_of(rows)


def possible_variance(value: str) -> pd.DataFrame:
    """Compare the roots of the spreads, as if the spreads were variances."""
    return possible_spread(value, root=True)


def same_runs(_value: str) -> pd.DataFrame:
    """Compare Tables 2 and 4 on the same models, by the spread of Table 2.

    A cell is contradicted only by its p-value after Holm's correction for the number of cells.
    """
    table = reruns()
    difference = table["table_4"] - table["table_2"]
    errors = table["spread"] * np.sqrt(2 / RUNS)
    p_values = 2 * stats.t.sf((difference.abs() - 2 * ROUNDING).clip(lower=0) / errors, RUNS - 1)
    rows = []
    for row, number, p, adjusted in zip(
        table.itertuples(), difference, p_values, multiple.holm(p_values), strict=True
    ):
        verdict = SUPPORTED if p > 0.05 else UNDECIDED if adjusted > 0.05 else CONTRADICTED
        text = f"{_name(row)}: Table 4 less Table 2, p = {p:.3f}, corrected {adjusted:.2f}"
        rows.append(printed_row(text, number, _chance(row.spread), verdict, BOTH))
    return table_of(rows)


def division(_value: str) -> pd.DataFrame:
    """Compare divided with mixed data (Table 7) by the spread of the divided model in Table 2.

    The divided model is that trained on 1,920 facts of level 2.
    """
    spread = reruns().query("train_level == 2").set_index("split")["spread"]
    table = paper.table("strategies").pivot(index="split", columns="strategy", values="accuracy")
    rows = []
    for split, gain in (table["SFT (Divided)"] - table["SFT (Mixed)"]).items():
        half = _chance(spread[split]) + 2 * ROUNDING
        verdict = verdicts.judge(gain - half, gain + half, "above")
        rows.append(printed_row(SPLIT_TITLES[split], gain, half, verdict, BOTH))
    return table_of(rows)


def relevance(_value: str) -> pd.DataFrame:
    """Compare the mean largest gain on questions about facts with that on each task of Table 5."""
    runs = paper.table("restore").query("split == 'test'")
    largest = runs.groupby(["train_size", "train_level"])["accuracy"].max()
    before = runs[runs["restored_percent"] == 0].set_index(["train_size", "train_level"])
    gain = (largest - before["accuracy"]).mean()
    tasks, rows = paper.table("tasks").set_index("restored_percent"), []
    for metric in tasks.columns:
        task_gain = tasks[metric].max() - tasks.loc[0, metric]
        text = f"facts {gain:.2f} points, {metric.replace('_', ' ')} {task_gain:.2f}: difference"
        half = 4 * ROUNDING
        verdict = verdicts.judge(gain - task_gain - half, gain - task_gain + half, "above")
        rows.append(printed_row(text, gain - task_gain, half, verdict))
    return table_of(rows)


def exact_shares(_value: str) -> pd.DataFrame:
    """Contradict a row of Table 3 if it fits 8-bit ratios better than any random row."""
    rows = []
    for row in bfloat16().itertuples():
        fits = f"{row.fits} of {row.shares} shares are ratios over {row.divisor}"
        text = f"{_name(row)}: {fits}; of random rows at most {row.by_chance} are"
        verdict = CONTRADICTED if row.fits > row.by_chance else SUPPORTED
        rows.append(printed_row(text, np.nan, verdict=verdict))
    return table_of(rows)


def quoted_ratio(value: str) -> pd.DataFrame:
    """Compute the increase of the gap in §3.4 from other numbers of the section.

    The first two numbers differ by the gap at 240 facts.
    """
    number = quoted().set_index("name")["value"]
    gap = number["level_0"] - number["level_0_2"]
    increase = -number["gap"] / gap - 1
    below = f"({-number['level_0_2']:.2f} − {-number['level_0']:.2f})"
    return table_of([agrees(value, printed_row(f"{-number['gap']:.2f} / {below} − 1", increase))])


def nearer_240(_value: str) -> pd.DataFrame:
    """Compare Table 11's distance to the models of 240 facts with that to those of 1,920."""
    keys = {"index": "train_level", "columns": "train_size", "values": "distance"}
    table = block_distances().pivot(**keys)
    return table_of(
        [
            printed_row(f"level {level}", nearer, 0, verdicts.judge(nearer, nearer, "below"))
            for level, nearer in (table[240] - table[1920]).items()
        ]
    )


def _name(row) -> str:
    split = SPLIT_TITLES.get(getattr(row, "split", ""), "")
    parts = [getattr(row, "llm", ""), split, f"level {row.train_level}"]
    size = getattr(row, "train_size", None)
    return ", ".join([*filter(None, parts), *([f"{size:,} facts"] if size else [])])


def _chance(spread: float) -> float:
    """Return half the 95 % interval of the difference of two means over `RUNS` runs."""
    return float(stats.t.ppf(0.975, RUNS - 1)) * spread * np.sqrt(2 / RUNS)


DIGIT_CHECKS: dict[str, Callable[[str], pd.DataFrame]] = {
    "totals": same_totals,
    "repetitions": fits_repetitions,
    "single_runs": is_repeated,
    "level_means": mean_of_levels,
    "spreads": possible_spread,
    "variances": possible_variance,
    "reruns": same_runs,
    "division": division,
    "relevance": relevance,
    "bfloat16": exact_shares,
    "quoted_ratio": quoted_ratio,
    "blocks_of": nearer_240,
}
