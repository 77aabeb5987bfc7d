"""The numbers in the text of the book: the paper's from its tables, ours from the records."""

import json
import statistics

import numpy as np
import pandas as pd

from repro import files, paper
from repro.claims.sources import SHARE
from repro.paper.quotes import quoted
from repro.report import locations, mastery
from repro.statistics import summary
from repro.study import Study, profiles

SMALL, LARGE = 240, 1920  # the two training sizes of the paper's Tables 3, 4 and 6
ABSENT = "–"
MEASURED = "smollm2-135m"  # the model of the benchmarks that the text quotes


def _range(values: pd.Series, decimals: int = 1) -> str:
    low, high = f"{values.min():.{decimals}f}", f"{values.max():.{decimals}f}"
    return low if low == high else f"{low} to {high}"


def of_paper() -> dict[str, str]:
    """Return the numbers of the paper, computed from its published tables."""
    topics = paper.TOPICS.values()
    facts = paper.table("distribution").query("model == 'LLaMA-3-8B'")
    totals = facts.groupby("split")["count"].sum()
    return {
        "topics": str(len(topics)),
        "in_topics": str(sum(t.domain == "in" for t in topics)),
        "out_topics": str(sum(t.domain == "out" for t in topics)),
        "templates": str(len(next(iter(topics)).mappings)),
        "models": str(paper.table("distribution")["model"].nunique()),
        **{f"{split}_facts": f"{count:,}" for split, count in totals.items()},
        "small": f"{SMALL:,}",
        "large": f"{LARGE:,}",
        "fall_level_0": f"{-_quoted('level_0'):.2f}",
        **_of_levels(),
        **_of_concentration(),
        **_of_restoration(),
        **_of_text(),
        **_of_places(locations.published()[1]),
    }


def _quoted(name: str) -> float:
    return float(quoted().set_index("name").loc[name, "value"])


def _of_levels() -> dict[str, str]:
    rows = paper.table("accuracy_1920").query(
        "model == 'LLaMA-3-8B' and split == 'test' and test_level == 'mean'"
    )
    by_level = rows.set_index("train_level")["accuracy"]
    return {
        "level_gap": f"{by_level.max() - by_level.min():.2f}",
        "best_level": str(by_level.idxmax()),
        "worst_level": str(by_level.idxmin()),
    }


def _of_concentration() -> dict[str, str]:
    shares = paper.table("concentration").set_index("top_percent")["share_of_change_percent"]
    return {"top_1_percent": _range(shares.loc[1]), "top_20_percent": _range(shares.loc[20])}


def _of_restoration() -> dict[str, str]:
    """Return the gains of restoration in the paper's Table 4, by name."""
    rows = paper.table("restore").query("split == 'test' and train_size == @LARGE")
    table = rows.pivot(index="restored_percent", columns="train_level", values="accuracy")
    gain = table - table.loc[0]
    return {
        "gain_20_d0": f"{gain.loc[20, 0]:.2f}",
        "best_gain_d0": f"{gain[0].max():.2f}",
        "best_share_d0": f"{gain[0].idxmax()}",
        "best_gain_d4": f"{gain[4].max():.2f}",
        "best_share_d4": f"{gain[4].idxmax()}",
        "ruin": f"{table.loc[60].max():.2f}",
    }


def _of_text() -> dict[str, str]:
    """Return the numbers of §3.4 and §5.2 that the note to the authors compares with the tables."""
    quotes = {name: abs(_quoted(name)) for name in ("level_0", "level_0_2", "gap", "gap_ratio")}
    large, small = f"train_size == {LARGE}", f"train_size == {SMALL}"
    table = paper.table("restore")
    inside, outside = (table.query(f"split == '{split}'") for split in ("test", "testood"))
    at = "restored_percent == 0 and train_level == {}".format
    before = inside.query(small).query(at(0))["accuracy"].item()
    best = inside.query(small).query(at(2))["accuracy"].item()
    second = (
        paper.table("accuracy_1920")
        .query("model == 'LLaMA-3-8B' and split == 'test' and test_level == 'mean'")
        .query("train_level == 0")["accuracy"]
        .item()
    )
    fourth = inside.query(large).query(at(0))["accuracy"].item()
    forty = inside.query(large).query("restored_percent == 40").set_index("train_level")["accuracy"]
    fifth = outside.query(large).query("train_level == 3").set_index("restored_percent")["accuracy"]
    return {
        **{f"quoted_{name}": f"{value:.2f}" for name, value in quotes.items()},
        "table_4_level_0": f"{before - fourth:.2f}",
        "table_4_level_0_2": f"{best - fourth:.2f}",
        "table_2_level_0": f"{before - second:.2f}",
        "table_2_level_0_2": f"{best - second:.2f}",
        "forty_level_1": f"{forty[1]:.2f}",
        "forty_level_3": f"{forty[3]:.2f}",
        "ood_level_3": f"{fifth[0]:.2f}",
        "ood_fifth_level_3": f"{fifth[20]:.2f}",
    }


def _of_places(modules: pd.DataFrame) -> dict[str, str]:
    """Return the percentage of the restored and of all parameters that feed-forward layers have."""
    names = ("feed_forward", "feed_forward_even")
    if "top_percent" in modules:
        modules = modules[modules["top_percent"] == SHARE]
    if modules.empty:
        return dict.fromkeys(names, ABSENT)
    rows = modules[modules["module"].str.contains("mlp")]
    return {
        name: f"{100 * rows[column].sum() / modules[column].sum():.1f}"
        for name, column in zip(names, ("k", "n"), strict=True)
    }


def of_profile(name: str) -> dict[str, str]:
    """Return the settings of a profile: sizes, samples, templates, draws, tokens."""
    profile = profiles.profile(name)
    return {
        "sizes": ", ".join(str(size) for size in profile.sizes),
        "samples": str(profile.samples),
        "templates": str(profile.templates),
        "draws": str(profile.draws),
        "tokens": str(profile.max_new_tokens),
    }


def of_study(measured: Study) -> dict[str, str]:
    """Return our numbers for the model and profile of the book."""
    facts = measured.results.distribution().groupby("split")["count"].sum()
    rows = measured.results.mastery()
    test = rows.query("split == 'test'")["level"]
    return {
        **{f"{split}_facts": f"{count:,}" for split, count in facts.items()},
        "test_top": f"{(test == test.max()).sum():,}",
        "level_0": f"{_percent_at(measured, 0):.0f}",
        "level_4": f"{_percent_at(measured, 4):.1f}",
        "learning_rate": f"{measured.model.learning_rate:g}",
        **_our_concentration(measured.results.concentration()),
        **_best_restoration(measured),
        **_of_places(locations.named(measured.results.locations())),
    }


def _percent_at(measured: Study, level: int) -> float:
    """Return the share of facts at a level; for facts chosen by score, its estimate for all."""
    facts = mastery.weighted(measured.results.mastery(), measured.results.scored())
    return 100 * float(np.average(facts["level"] == level, weights=facts["weight"]))


def _our_concentration(rows: pd.DataFrame) -> dict[str, str]:
    names = ("top_1_percent", "top_1_percent_without_zeros", "zeros")
    if rows.empty:
        return dict.fromkeys(names, ABSENT)
    top = rows.query("top_percent == 1")
    shares = ("share_of_change_percent", "without_zero_base_percent")
    ranges = [_range(top[name]) if len(top) else ABSENT for name in shares]
    zeros = _range(100 * rows["zero_base"] / rows["n"], 2)
    return dict(zip(names, [*ranges, zeros], strict=True))


def _best_restoration(measured: Study) -> dict[str, str]:
    """Return the largest gain of restoration on test facts, with its share, level and size."""
    # Only runs of which a share was restored, because a gain is a difference within one run.
    restored = summary.restored(measured.results.accuracy())
    if restored.empty:
        return {"best_gain": ABSENT, "best_share": ABSENT, "base": _base(measured)}
    rows = summary.means(restored).query("split == 'test'")
    run = ["train_level", "train_size"]
    table = rows.pivot_table(index="restored_percent", columns=run, values="accuracy")
    gain = (table - table.loc[0]).dropna(axis="columns", thresh=2)
    best = gain.max().idxmax()
    return {
        "best_gain": f"{gain.max().max():.2f}",
        "best_share": f"{gain[best].idxmax():g}",
        "best_level": str(best[0]),
        "best_size": f"{best[1]:,}",
        "base": _base(measured),
    }


def _base(measured: Study) -> str:
    rows = summary.means(measured.results.accuracy()).query("split == 'test' and train_level == -1")
    return f"{rows['accuracy'].iloc[0]:.2f}" if len(rows) else ABSENT


def of_rounding() -> dict[str, str]:
    """Return how many completions change with the batch size (`benchmarks/rounding.py`)."""
    path = files.results_dir() / MEASURED / "benchmarks" / "rounding.json"
    if not path.is_file():
        return dict.fromkeys(("small", "large", "completions", "float32", "bfloat16"), ABSENT)
    record = json.loads(path.read_text(encoding="utf-8"))
    moved = {run["dtype"]: str(run["moved"]) for run in record["runs"]}
    small, large = (str(rows) for rows in record["rows"])
    completions = f"{record['runs'][0]['completions']:,}"
    return {"small": small, "large": large, "completions": completions, **moved}


def of_spellings() -> dict[str, str]:
    """Return how many completions contain special characters (`benchmarks/spellings.py`)."""
    path = files.results_dir() / MEASURED / "benchmarks" / "spellings.json"
    if not path.is_file():
        return dict.fromkeys(("completions", "special", "moved"), ABSENT)
    record = json.loads(path.read_text(encoding="utf-8"))
    moved = record["right by the second rule"] - record["right by the first rule"]
    special = record["with a special character"]
    return {
        "completions": f"{record['completions']:,}",
        "special": f"{special:,}",
        "moved": f"{moved:,}" if moved else "none",
    }


def of_restore_benchmark() -> dict[str, str]:
    """Return time and memory of ranking two checkpoints (`benchmarks/restore.py`)."""
    path = files.results_dir() / MEASURED / "benchmarks" / "restore.json"
    names = ("block", "parameters", "seconds", "memory", "threads", "floor", "faster", "linear")
    if not path.is_file():
        return dict.fromkeys(names, ABSENT)
    record = json.loads(path.read_text(encoding="utf-8"))
    made_up = [pair for name, pair in record["pairs"].items() if name.startswith("made-up")]
    largest = max(made_up, key=lambda pair: pair["parameters"])
    seconds = {id(pair): statistics.median(pair["seconds"]["ours"]) for pair in made_up}
    return {
        "block": f"{record['block']:,}",
        "parameters": f"{largest['parameters']:,}",
        "seconds": f"{seconds[id(largest)]:.1f}",
        "memory": f"{(largest['peak_bytes']['ours'] - largest['idle_bytes']['ours']) / 1e6:,.0f}",
        "threads": str(record["threads"]),
        "floor": f"{statistics.median(largest['seconds']['floor']):.1f}",
        "faster": f"{record['pairs'][MEASURED]['times_faster_than_in_memory']:,.0f}",
        "linear": ", ".join(
            f"{seconds[id(pair)]:.2f} s for {pair['parameters'] / 1e6:,.0f} million"
            for pair in made_up
        ),
    }
