"""The frames on which claims are checked: from the paper's own tables, or from a study of ours.

Every frame has `accuracy` (or `kl`) with `low` and `high`. For the paper these bound the number
before rounding to the printed digits, with the half-width `rounding`; if Table 2 prints a `spread`
over `n` runs, the frame has it too. For a study they are 95 % intervals, and `units` holds the
units of paired intervals (`repro.statistics.bootstrap`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from repro import paper
from repro.claims.printed_digits import ROUNDING, RUNS, with_spread
from repro.paper import LARGE_SIZE
from repro.report import divergence, layers, locations, strategies, tasks
from repro.report.locations import RUN, by_samples, lifts
from repro.statistics import summary
from repro.study import task_study
from repro.study.results import layer_requests

LLM = "LLaMA-3-8B"  # the model of all of the paper's tables but 1, 2 and 8
SHARE = 20  # restored share (%) whose parameters are located
FIRST, LAST = 3 / 32, 2 / 32  # of the layers: 0–2 and 30–31 of LLaMA-3-8B's 32 (Appendix E.1)


@dataclass(frozen=True)
class Side:
    """Frames by name, and for some of them the units of paired intervals.

    acc: runs without restoration (§3.4); restored: runs with (§5); levels and restored_levels: the
    same by level of the test facts; change: Table 3; kl and kl_and_accuracy: §4; tasks: Table 5;
    strategies: Table 7; harmless: the largest share that costs nothing; layers, every_layer,
    quarters, layer_unevenness: Table 9; modules, module_lift: Table 10; blocks: Table 11. Frames
    without data are absent.
    """

    name: str
    frames: dict[str, pd.DataFrame]
    units: dict[str, pd.DataFrame] = field(default_factory=dict)
    printed: bool = False  # the paper's numbers, which are what they are


def of_paper() -> Side:
    """Return the paper's published tables."""
    restored = pd.concat([paper.table("restore"), paper.table("restore_train")], ignore_index=True)
    second = paper.table("accuracy_1920").rename(columns={"model": "llm"})
    second = second.assign(train_size=LARGE_SIZE, restored_percent=0, n=RUNS)
    is_mean = second["test_level"] == "mean"
    before = restored[restored["restored_percent"] == 0].assign(source="Table 4", llm=LLM)
    acc = [with_spread(before), second[is_mean].drop(columns="test_level").assign(source="Table 2")]
    frames = {
        "acc": pd.concat(acc, ignore_index=True),
        "restored": restored,
        "levels": second[~is_mean].astype({"test_level": int}),
        "change": _renamed(paper.table("concentration"), "share_of_change_percent"),
        "tasks": tasks.published(),
        "strategies": _strategies(),
        "harmless": _harmless(paper.table("restore")),
        "blocks": _in_order(layers.published()),
    }
    frames = {name: _rounded(frame) for name, frame in frames.items()}
    frames |= _where(*locations.published(), [], _by_digits)
    return Side("paper", frames, printed=True)


def of_study(measured) -> Side:
    """Return the frames of a `Study`. Computes missing records."""
    accuracy, answers = measured.results.accuracy(), measured.results.answers()
    means, levels = summary.means(accuracy), summary.per_level(accuracy)
    kl_sums = measured.results.divergence()
    kl = divergence.means(kl_sums)
    frames = {
        "acc": summary.tuned(means),
        "restored": summary.means(summary.restored(accuracy)),
        "restored_levels": summary.per_level(summary.restored(accuracy)),
        "levels": summary.tuned(levels),
        "kl": kl,
        "kl_and_accuracy": _joined(kl, levels, measured.compared_level()),
        **_of_parameters(measured),
    }
    restored = summary.restored(answers)
    units = {"kl": divergence.topic_units(kl_sums), "restored": restored}
    units["restored_levels"] = restored
    if len(answers):
        units |= dict.fromkeys(("acc", "levels"), summary.tuned(answers))
    of_tasks = task_study.TaskStudy(measured.model, measured.profile).results
    frames["tasks"], units["tasks"] = of_tasks.means(), of_tasks.units()
    blocks, strategy_side = of_layers(measured), of_strategies(measured)
    frames, units = frames | blocks.frames | strategy_side.frames, units | blocks.units
    return Side(_name(measured), {k: frame for k, frame in frames.items() if len(frame)}, units)


def of_locations(measured) -> Side:
    """Return Tables 9 and 10 of a study, if it has restored runs."""
    return Side(_name(measured), _of_parameters(measured))


def of_layers(measured) -> Side:
    """Return Table 11 of a study, if it has runs whose layers were restored."""
    if (blocks := measured.results.layers()).empty:
        return Side(_name(measured), {})
    answers = measured.results.answers(layer_requests(measured))
    # All of a block is restored, so runs do not differ in their share.
    frame, units = (
        _in_order(rows.assign(restored_percent=0)) for rows in (layers.means(blocks), answers)
    )
    return Side(_name(measured), {"blocks": frame}, {"blocks": units})


def of_strategies(measured) -> Side:
    """Return Table 7 of a study with settings chosen on dev, if it has such runs."""
    best = strategies.best(strategies.gather(measured))
    rows = best[best["chosen_on"] == "dev"]
    return Side(_name(measured), {"strategies": rows} if len(rows) else {})


def _name(measured) -> str:
    return f"{measured.model.name}, {measured.profile.name}"


def _of_parameters(measured) -> dict[str, pd.DataFrame]:
    """Return Tables 3, 9 and 10 of a study, if it has restored runs."""
    change, counted = measured.results.concentration(), measured.results.locations()
    if change.empty:
        return {}
    shares = by_samples(change, "share_of_change_percent", [*RUN, "top_percent"])
    places = counted[counted["top_percent"] == SHARE]
    return {"change": shares} | (_where(places, places, RUN, by_samples) if len(places) else {})


def _renamed(frame: pd.DataFrame, value: str = "accuracy", **names: str) -> pd.DataFrame:
    return frame.rename(columns={value: "accuracy"} | {old: new for new, old in names.items()})


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the interval and half-width of rounding to the printed digits."""
    low, high = frame["accuracy"] - ROUNDING, frame["accuracy"] + ROUNDING
    return frame.assign(low=low, high=high, rounding=ROUNDING)


def _strategies() -> pd.DataFrame:
    """Return Table 7, and the rows of Table 4 to compare it with."""
    restore, rows = paper.table("restore"), [paper.table("strategies")]
    large, base = restore["train_size"] == LARGE_SIZE, restore["restored_percent"] == 0
    for name, chosen in {
        "best of Table 4": large,
        "best of Table 4 without restoration": large & base,
        "best of Table 4 with 240 facts": ~large & base,
    }.items():
        best = restore[chosen].groupby("split")["accuracy"].max().reset_index()
        rows.append(best.assign(strategy=name))
    return pd.concat(rows, ignore_index=True)


def _harmless(restore: pd.DataFrame) -> pd.DataFrame:
    """Return the largest restored share (as `accuracy`, %) that is not below restoring nothing."""
    run = ["split", "train_size", "train_level"]
    before = restore.loc[restore["restored_percent"] == 0, [*run, "accuracy"]]
    compared = restore.merge(before, on=run, suffixes=("", "_before"))
    harmless = compared[compared["accuracy"] >= compared["accuracy_before"]]
    return harmless.groupby(run)["restored_percent"].max().rename("accuracy").reset_index()


def _in_order(blocks: pd.DataFrame) -> pd.DataFrame:
    """Number the blocks of `layers` from the lowest (0), and say which is the last.

    The model without restoration is the block −1.
    """
    if blocks.empty:
        return blocks
    names = [name for name in layers.block_names(blocks["layers"]) if name != layers.NONE]
    number = blocks["layers"].map({name: place for place, name in enumerate(names)})
    number = number.fillna(-1).astype(int)
    return blocks.assign(block=number, last=number == number.max()).drop(columns="layers")


def _joined(kl: pd.DataFrame, levels: pd.DataFrame, level: int) -> pd.DataFrame:
    """Return accuracy on the compared facts beside the divergence, one row per run (§4.2)."""
    rows = summary.tuned(levels).query("test_level == @level and split == 'test'")
    run = ["train_level", "train_size", "size_label"]
    return kl.merge(rows[[*run, "accuracy"]], on=run)


def _where(by_depth, modules, run: list[str], bounded: Callable) -> dict[str, pd.DataFrame]:
    """Return the frames of Tables 9 and 10; `bounded` adds low and high.

    `by_depth` and `modules` have the columns `run`, sample, layer or module, k and n. A lift is a
    share of the chosen parameters over the share of all.
    """
    modules = modules.assign(
        module=np.where(modules["module"].str.contains("mlp"), "feed-forward", "attention")
    )
    by_depth = by_depth.assign(part=_parts(by_depth["layer"]))
    kinds = lifts(modules, [*run, "sample"], ["module"])
    columns_of_part = [*run, "sample", "part"]
    by_layer = lifts(by_depth, [*run, "sample"], ["part", "layer"])
    quarters = by_depth.assign(quarter=locations.quarters(by_depth["layer"]))
    by_layer = by_layer.assign(uneven=(by_layer["lift"] - 1).abs()).sort_values("uneven")
    frames = {
        "layers": (lifts(by_depth, [*run, "sample"], ["part"]), "lift", "part"),
        "every_layer": (by_layer, "lift", "layer"),
        "quarters": (lifts(quarters, [*run, "sample"], ["quarter"]), "lift", "quarter"),
        "layer_unevenness": (by_layer.groupby(columns_of_part).tail(1), "uneven", "part"),
        "modules": (kinds, "share", "module"),
        "module_lift": (kinds, "lift", "module"),
    }
    return {key: bounded(rows, value, [*run, by]) for key, (rows, value, by) in frames.items()}


def _parts(layer: pd.Series) -> np.ndarray:
    """Return whether each layer is first, middle or last, in the proportions of Appendix E.1."""
    number = layer.max() + 1
    first, last = layer < np.ceil(FIRST * number), layer >= number - np.ceil(LAST * number)
    return np.select([first, last], ["first", "last"], "middle")


def _by_digits(rows: pd.DataFrame, value: str, _by: list[str]) -> pd.DataFrame:
    """Add low and high to values from printed percentages, by the rounding of each."""
    scale = rows["share"] if value == "share" else rows["lift"]
    half = scale * ROUNDING * rows["cells"] / rows["k"]
    rows = rows.rename(columns={value: "accuracy"})
    return rows.assign(low=rows["accuracy"] - half, high=rows["accuracy"] + half, rounding=half)
