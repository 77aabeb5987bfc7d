"""From counts of answers to the rows of the paper's tables: means, spreads, intervals.

Two uncertainties are kept apart. `low` and `high` bound the accuracy of the runs given a finite
number of test questions (95 %); all data samples answer the same questions, so averaging over
samples does not narrow them. `spread` is the standard deviation between data samples (one degree
of freedom taken for the mean, ddof = 1), which exists only with two samples or more.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from repro.measures.mastery import template_columns
from repro.statistics.intervals import Z95, wilson

RUN = ["model", "train_level", "train_size", "size_label", "restored_percent", "strategy"]
RUN += ["layers"]
ABSENT = "–"  # what cannot exist, never written as 0


def means(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return the paper's Acc (§3.3, mean over test levels) of every run, averaged over samples.

    `accuracy` is `Study.accuracy()`. Columns: model, train_level, train_size, size_label,
    restored_percent, split, accuracy, low, high, spread (percent), levels, correct, total, n
    (data samples); strategy and layers where `accuracy` has them. A level without facts does not
    enter the mean.
    """
    by = [*_run(accuracy), "split"]
    return _over_samples(acc(accuracy, by=[*by, "sample"]), by)


def per_level(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return what `means` returns with one row per `test_level`, as in Table 2."""
    by = [*_run(accuracy), "split", "level"]
    rows = acc(accuracy.assign(level=accuracy["test_level"]), by=[*by, "sample"])
    return _over_samples(rows, by).rename(columns={"level": "test_level"})


def table_2(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return rows shaped like the paper's Table 2: `test_level` is "0" to "4" or "mean"."""
    levels = per_level(accuracy)
    levels["test_level"] = levels["test_level"].astype(str)
    return pd.concat([levels, means(accuracy).assign(test_level="mean")], ignore_index=True)


def learning_rates(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of right dev answers by learning rate, all levels and samples together.

    Columns: learning_rate, accuracy, low, high, spread (percent), correct, total, n. Not the mean
    over levels: on a few dev facts a level with one of them would decide it. All samples answer
    the same questions, so the interval is that of one sample's questions.
    """
    each = frame.groupby(["learning_rate", "sample"])[["correct", "total"]].sum().reset_index()
    each["share"] = 100 * each["correct"] / each["total"].astype(float)
    groups = each.groupby("learning_rate")
    rows = groups[["correct", "total"]].sum()
    rows = rows.assign(
        n=groups.size(), accuracy=groups["share"].mean(), spread=groups["share"].std()
    )
    low, high = wilson(rows["correct"] / rows["n"], rows["total"] / rows["n"])
    columns = ["learning_rate", "accuracy", "low", "high", "spread", "correct", "total", "n"]
    return rows.assign(low=100 * low, high=100 * high).reset_index()[columns]


def best_rate(rates: pd.DataFrame) -> float | None:
    """Return the learning rate with the most right dev answers (ties: the smaller), or None."""
    ordered = rates.sort_values(["correct", "learning_rate"], ascending=[False, True])
    return float(ordered["learning_rate"].iloc[0]) if len(ordered) else None


def concentration(frame: pd.DataFrame, share: str = "share_of_change_percent") -> pd.DataFrame:
    """Return Table 3's share of the total relative change, averaged over samples, in percent.

    `share` names the column averaged; `without_zero_base_percent` leaves out the parameters
    that were exactly zero before fine-tuning.
    """
    by = [*_run(frame), "top_percent"]
    if frame.empty:
        return pd.DataFrame(columns=[*RUN[:3], "top_percent", "share_of_change_percent", "spread"])
    shares = frame.groupby(by, observed=True)[share]
    return shares.agg(share_of_change_percent="mean", spread="std", n="size").reset_index()


def special_parameters(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how many parameters are ranked, have p = 0, and have s = p: means over data samples.

    Columns: train_size, train_level, samples, n, zero_base, unchanged. Records made before zeros
    were counted lack the last two.
    """
    counted = [name for name in ("n", "zero_base", "unchanged") if name in frame]
    run = ["train_size", "train_level"]
    if frame.empty:
        return pd.DataFrame(columns=[*run, "samples", *counted])
    groups = frame.groupby(run)
    return (
        groups["sample"]
        .nunique()
        .rename("samples")
        .to_frame()
        .join(groups[counted].mean())
        .reset_index()
    )


def divergence(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean KL divergence in nats (§4.1) of every run, averaged over samples.

    Columns: the run, kl, low, high (95 %, over topics), spread, n, facts. With facts of a single
    topic the interval is unknown (NaN).
    """
    by = _run(frame) if len(frame) else RUN[:3]
    groups = frame.groupby(by) if len(frame) else []
    rows = [dict(zip(by, key, strict=True)) | _kl(runs) for key, runs in groups]
    return pd.DataFrame(rows, columns=[*by, "kl", "low", "high", "spread", "n", "facts"])


def level_shares(distribution: pd.DataFrame) -> pd.DataFrame:
    """Return the share of facts at every level in percent, with its 95 % Wilson interval.

    `distribution` has model, split, level, count; share, low and high are added. A split
    without facts is left out.
    """
    total = distribution.groupby(["model", "split"])["count"].transform("sum")
    rows = distribution.assign(total=total)[total > 0]
    low, high = wilson(rows["count"], rows["total"])
    share = 100 * rows["count"] / rows["total"]
    return rows.assign(share=share, low=100 * low, high=100 * high).drop(columns="total")


def templates(mastery: pd.DataFrame) -> pd.DataFrame:
    """Return the success rate in percent of every mapping template: topics × template number.

    `mastery` is `Study.mastery()`; a column is named after the template's place, counted from 1,
    in Tables 13–36. Templates that the profile does not use have no column.
    """
    columns = template_columns(mastery)
    groups = mastery.groupby("topic", observed=True)
    draws = groups["trials"].sum() / len(columns)
    rates = 100 * groups[columns].sum().div(draws, axis=0)
    return rates.rename(columns={c: int(c[1:]) + 1 for c in columns})


def best_templates(success: pd.DataFrame, texts: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """Return each topic's most successful mapping template and how much it matters.

    `success` comes from `templates`, `texts` holds every topic's templates. Columns: topic,
    template, best, mean, worst (success rates in percent).
    """
    best = success.idxmax(axis=1)
    return pd.DataFrame(
        {
            "topic": success.index,
            "template": [texts[topic][number - 1] for topic, number in best.items()],
            "best": success.max(axis=1).to_numpy(),
            "mean": success.mean(axis=1).to_numpy(),
            "worst": success.min(axis=1).to_numpy(),
        }
    ).sort_values("best", ascending=False, kind="stable", ignore_index=True)


def best_share(mean: pd.DataFrame, chosen_on: str, reported_on: str = "test") -> pd.DataFrame:
    """Return for every run the restored share with the highest Acc on one split.

    `mean` comes from `means`. Columns: train_size, train_level, chosen_on, restored_percent, and
    accuracy, low, high, spread, n on `reported_on`, with `gain` over restoring nothing. Between
    equals the smaller share wins.
    """
    run = ["train_size", "train_level"]
    ordered = mean[mean["split"] == chosen_on].sort_values("restored_percent", kind="stable")
    chosen = ordered.loc[ordered.groupby(run)["accuracy"].idxmax(), [*run, "restored_percent"]]
    reported = mean[mean["split"] == reported_on]
    before = reported.loc[reported["restored_percent"] == 0, [*run, "accuracy"]]
    found = chosen.merge(reported, on=[*run, "restored_percent"])
    found = found.merge(before.rename(columns={"accuracy": "before"}), on=run)
    found = found.assign(chosen_on=chosen_on, gain=found["accuracy"] - found["before"])
    columns = [*run, "chosen_on", "restored_percent", "accuracy", "gain", "low", "high"]
    return found[[*columns, "spread", "n"]]


def tuned(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of fine-tuned models in which nothing is restored."""
    rows = frame[frame["train_level"] >= 0]
    return rows[rows["restored_percent"] == 0] if "restored_percent" in rows else rows


def restored(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the runs of which some share was restored, the share 0 included.

    Taken before averaging: fewer data samples may be restored than are trained, and a restored
    model must be set against itself, not against other samples.
    """
    if accuracy.empty:
        return accuracy
    run = ["train_level", "train_size", "sample"]
    most = accuracy.groupby(run)["restored_percent"].transform("max")
    return accuracy[(accuracy["train_level"] >= 0) & (most > 0)]


def sizes(frame: pd.DataFrame) -> list[int]:
    """Return the sampled training sizes in ascending order, without whole pools ("All")."""
    rows = tuned(frame)
    if "size_label" in rows:
        rows = rows[rows["size_label"] != "All"]
    return sorted(int(size) for size in rows["train_size"].unique())


def size_names(frame: pd.DataFrame) -> pd.Series:
    """Return each row's size as the paper writes it: "240" or "All"."""
    known = "size_label" in frame
    return frame["size_label" if known else "train_size"].astype(str)


def signed(value: float, decimals: int = 2) -> str:
    """Return a number with its sign, with a true minus sign, and no sign when it rounds to 0."""
    rounded = round(value, decimals) + 0.0
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{decimals}f}"


def _run(frame: pd.DataFrame) -> list[str]:
    return [column for column in RUN if column in frame]


def _over_samples(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    groups = runs.groupby(by, observed=True)
    columns = {c: (c, "mean") for c in ("accuracy", "low", "high")} | {
        "spread": ("accuracy", "std"),
        "levels": ("levels", "min"),
        "correct": ("correct", "sum"),
        "total": ("total", "sum"),
        "n": ("sample", "nunique"),
    }
    return groups.agg(**columns).reset_index()


def _kl(runs: pd.DataFrame) -> dict:
    samples = runs.groupby("sample")[["kl_sum", "facts"]].sum()
    topics = runs.groupby("topic")[["kl_sum", "facts"]].sum()
    facts, count = topics["facts"].sum(), len(topics)
    kl = topics["kl_sum"].sum() / facts
    # The ratio estimator's variance with topics as clusters: facts of a topic share a template.
    residuals = topics["kl_sum"] - kl * topics["facts"]
    variance = (residuals**2).sum() * count / (count - 1) / facts**2 if count > 1 else np.nan
    half = Z95 * np.sqrt(variance)
    spread = (samples["kl_sum"] / samples["facts"]).std()
    low = max(kl - half, 0.0) if count > 1 else np.nan
    result = {"kl": kl, "low": low, "high": kl + half, "spread": spread}
    return result | {"n": len(samples), "facts": int(facts / len(samples))}


def acc(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the paper's Acc, the mean over mastery levels, with a 95 % interval.

    Counts are summed over topics and over whatever `by` does not name. The interval of the
    mean combines the Wilson interval of each level (the MOVER method: squared distances to
    the bounds add up), and treats answers as independent.

    Args:
        frame: DataFrame[*by, test_level, correct, total].
        by: columns that tell the rows of the result apart.

    Returns:
        DataFrame[*by, accuracy, low, high (percent), levels, correct, total]; `levels` is
        the number of levels that have facts and enter the mean.
    """
    by = list(by)
    frame = frame[frame["total"] > 0]
    keys = list(dict.fromkeys([*by, "test_level"]))
    sums = frame.groupby(keys)[["correct", "total"]].sum().reset_index()
    low, high = wilson(sums["correct"], sums["total"])
    p = sums["correct"] / sums["total"]
    sums = sums.assign(p=p, below=(p - low) ** 2, above=(high - p) ** 2)
    grouped = sums.groupby(by) if by else sums.groupby(lambda _: 0)
    out = grouped.agg(
        p=("p", "mean"),
        below=("below", "sum"),
        above=("above", "sum"),
        levels=("p", "size"),
        correct=("correct", "sum"),
        total=("total", "sum"),
    )
    out["accuracy"] = 100 * out["p"]
    out["low"] = 100 * (out["p"] - np.sqrt(out["below"]) / out["levels"]).clip(0, 1)
    out["high"] = 100 * (out["p"] + np.sqrt(out["above"]) / out["levels"]).clip(0, 1)
    columns = ["accuracy", "low", "high", "levels", "correct", "total"]
    return out[columns].reset_index() if by else out[columns].reset_index(drop=True)
