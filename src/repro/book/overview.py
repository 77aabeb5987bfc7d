"""The overview: one row or more for every table and figure that the notebooks reproduce."""

import numpy as np
import pandas as pd

from repro import paper
from repro.claims import by_model, phenomena
from repro.claims.sources import SHARE
from repro.paper import BEST_SIZE, LARGE_SIZE
from repro.paper.quotes import quoted
from repro.report import (
    controls,
    divergence,
    html,
    layers,
    locations,
    mastery,
    restoration,
    strategies,
    tasks,
)
from repro.statistics import summary, verdicts
from repro.study import task_study

COLUMNS = ["item", "quantity", "paper", "ours", "difference", "command"]
IMAGE = "image only"


def overview(measured) -> pd.DataFrame:
    """Return item, quantity, paper, ours, difference, command (text) for a `Study`.

    In place of the paper's 1,920 facts, ours is the largest sampled size of the profile at the same
    level, which `quantity` names. A dash is a number that does not exist.
    """
    accuracy = measured.results.accuracy()
    means = summary.means(accuracy)
    restored = summary.means(summary.restored(accuracy))
    rows = [
        *_mastery(measured.results),
        *_scale(means),
        _table_2(means),
        _figure_3(measured),
        *_divergence(measured, accuracy),
        _concentration(measured),
        _restore("Table 4", restored, "test", paper.table("restore")),
        *_tasks(task_study.TaskStudy(measured.model, measured.profile).results.means()),
        _restore("Table 6", restored, "train", paper.table("restore_train")),
        _strategies(measured),
        *_where(measured.results.locations()),
        _blocks(layers.means(measured.results.layers())),
    ]
    model = measured.model.folder or measured.model.name  # what `open_study` needs
    options = f"-p model {model} -p profile {measured.profile.name}"
    frame = pd.DataFrame([_texts(*row) for row in rows], columns=COLUMNS)
    return frame.assign(command=frame["command"].map(lambda name: f"papermill {name} {options}"))


def findings(measured) -> dict[str, str]:
    """Return a line of Markdown on each phenomenon and finding of the paper, for a `Study`.

    It is for in-domain facts, with restoration of `SHARE` percent. The notebooks show each
    comparison.
    """
    accuracy, answers = measured.results.accuracy(), measured.results.answers()
    means, kl = summary.means(accuracy), divergence.means(measured.results.divergence())
    comparisons = by_model.of_study(measured)
    size, levels = phenomena.largest_common_size(means), summary.per_level(accuracy)
    statements = {
        "rises": (f"Up to {BEST_SIZE} facts it rises", comparisons["rises"]),
        "falls": (f"Beyond {BEST_SIZE} facts it falls", comparisons["falls"]),
        "level": ("Level 0 is worst and falls most", comparisons["level"]),
        "balance": ("Both patterns", phenomena.balance(levels, means, size, "test", answers)),
        "kl_falls": (f"Up to {BEST_SIZE} facts it falls", comparisons["kl_falls"]),
        "kl_rises": (f"Beyond {BEST_SIZE} facts it rises", comparisons["kl_rises"]),
        "kl_hurts": ("Accuracy falls as it rises", _hurts(kl, levels, measured.compared_level())),
        "helps": (f"Restoring {SHARE} % helps", comparisons["helps"]),
        "gains": ("More facts or level 0 gain more", comparisons["gains"]),
    }
    sentences = {name: verdicts.sentence(*pair) for name, pair in statements.items()}
    controlled, units, _ = controls.gather(measured)
    return sentences | {
        "which": controls.answer(controls.same_amount(controlled, units), "undone_l1")
    }


def _hurts(kl: pd.DataFrame, levels: pd.DataFrame, level: int) -> pd.DataFrame:
    run = [c for c in ("train_level", "train_size", "size_label") if c in kl]
    at_level = summary.tuned(levels[(levels["test_level"] == level) & (levels["split"] == "test")])
    return phenomena.divergence_lowers_accuracy(kl.merge(at_level[[*run, "accuracy"]], on=run))


def _mastery(results) -> list[tuple]:
    """Return the rows of Tables 1 and 8; for facts chosen by score, estimates for all facts."""
    published = mastery.level_shares(paper.table("distribution"))
    ours = mastery.level_shares(results.distribution(), results.natural_distribution())
    rows = []
    for item, model, split, level in (
        ("Table 1", "LLaMA-3-8B", "train", 0),
        ("Table 8", "LLaMA-2-7B", "test", 4),
    ):
        name = {"train": "training", "test": "in-domain test"}[split]
        quantity = f"Share of the {name} facts at level {level} (paper: {model}), %"
        theirs = _share(published[published["model"] == model], split, level)
        rows.append((item, quantity, theirs, _share(ours, split, level), "01_mastery"))
    return rows


def _share(frame: pd.DataFrame, split: str, level: int) -> float:
    rows = frame[(frame["split"] == split) & (frame["level"] == level)]
    return float(rows["share"].iloc[0]) if len(rows) == 1 else np.nan


def _scale(means: pd.DataFrame) -> list[tuple]:
    """Return the rows of Figures 2 and 6: the change of Acc from the best size to the largest."""
    large = _largest(means, 0)
    peak = phenomena.size_before(means, 0, large)
    text = "Change of {} Acc from {:,} to {:,} facts of level 0{}, points"
    theirs = quoted().set_index("name")["value"]["level_0"]
    note = " (paper, §3.4: 240 to 1,920)"
    ours = {split: _change(means, split, peak, large) for split in ("test", "testood")}
    inside, outside = text.format("in-domain", peak, large, note), "out-of-domain"
    return [
        ("Figure 2", inside, theirs, ours["test"], "02_scale"),
        ("Figure 6", text.format(outside, peak, large, ""), IMAGE, ours["testood"], "02_scale"),
    ]


def _change(means: pd.DataFrame, split: str, first: int, second: int) -> float:
    accuracies = [_value(means, split=split, train_size=size) for size in (first, second)]
    return accuracies[1] - accuracies[0]


def _table_2(means: pd.DataFrame) -> tuple:
    rows = _paper_table_2("mean")
    size = _largest(means, 0)
    quantity = f"In-domain Acc after {_instead(size)} facts of level 0, %"
    return "Table 2", quantity, rows, _value(means, split="test", train_size=size), "03_levels"


def _paper_table_2(test_level: str) -> float:
    rows = paper.table("accuracy_1920").query("model == 'LLaMA-3-8B' and split == 'test'")
    rows = rows[(rows["train_level"] == 0) & (rows["test_level"].astype(str) == test_level)]
    return rows["accuracy"].item()


def _figure_3(measured) -> tuple:
    example = divergence.example(measured)
    ours = example["kl"] if example else np.nan
    return "Figure 3", "KL divergence of the worked example, nats", IMAGE, ours, "04_divergence"


def _divergence(measured, accuracy: pd.DataFrame) -> list[tuple]:
    """Return the rows of Figures 4 and 5: accuracy on the facts compared, and growth of the KL."""
    kl = divergence.means(measured.results.divergence())
    if kl.empty:
        return [
            (item, "No facts to compare", IMAGE, np.nan, "04_divergence")
            for item in ("Figure 4", "Figure 5")
        ]
    level = measured.compared_level()
    levels = summary.per_level(accuracy).query("test_level == @level")
    size = _largest(kl, 0)
    peak = phenomena.size_before(kl, 0, size)
    ours = _value(levels, split="test", train_size=size)
    where = f"Accuracy on level-{level} facts (paper: level 4, from Table 2)"
    quantity = f"{where} after {_instead(size)} facts of level 0, %"
    ratio = _value(kl, "kl", train_size=size) / _value(kl, "kl", train_size=peak)
    growth = f"KL after {size:,} facts of level 0 over KL after {peak:,}, ratio"
    return [
        ("Figure 4", quantity, _paper_table_2("4"), ours, "04_divergence"),
        ("Figure 5", growth, IMAGE, ratio, "04_divergence"),
    ]


def _concentration(measured) -> tuple:
    """Return the row of Table 3: the share of the change in the top 1 % of the parameters."""
    ours = restoration.concentration_means(measured.results.concentration())
    size = _largest(ours, 0)
    at = {"train_level": 0, "top_percent": 1}
    theirs = _value(
        paper.table("concentration"), "share_of_change_percent", train_size=LARGE_SIZE, **at
    )
    share = _value(ours, "share_of_change_percent", train_size=size, **at)
    quantity = (
        f"Share of the change in the top 1% of parameters, {_instead(size)} facts of level 0, %"
    )
    return "Table 3", quantity, theirs, share, "05_restore"


def _restore(item: str, means: pd.DataFrame, split: str, published: pd.DataFrame) -> tuple:
    size = _largest(means, 0)
    measure = {"test": "in-domain Acc", "train": "accuracy on the training facts"}[split]
    text = f"Gain in {measure} from restoring {SHARE}%, {_instead(size)} facts of level 0, points"
    return item, text, _gain(published, split, LARGE_SIZE), _gain(means, split, size), "05_restore"


def _strategies(measured) -> tuple:
    """Return the row of Table 7: how far restoration is ahead of mixed fine-tuning."""
    leads = []
    for frame in (strategies.published(), strategies.best(strategies.gather(measured))):
        best = frame[
            (frame["split"] == "test") & frame["chosen_on"].isin(["paper", strategies.OWN])
        ]
        accuracy = best.set_index("strategy")["accuracy"]
        leads.append(
            accuracy.get(strategies.RESTORED, np.nan) - accuracy.get(strategies.MIXED, np.nan)
        )
    text = "Lead of restoration over mixed SFT, in-domain Acc, each at its best on the test, points"
    return "Table 7", text, *leads, "07_strategies"


def _where(counted: pd.DataFrame) -> list[tuple]:
    """Return the rows of Tables 9 and 10. The paper does not say for which model and share.

    Quarters of the layers are compared, because a single layer of four is not comparable with one
    of 32.
    """
    counted = locations.named(counted)
    ours = counted[(counted["top_percent"] == SHARE) & (counted["train_level"] == 0)]
    size = _largest(ours, 0)
    ours = ours[ours["train_size"] == size]
    chosen = f"ours, by our choice: top {SHARE}%, {size:,} facts of level 0"
    rows = []
    for item, by, place, text, theirs in (
        ("Table 9", "quarter", 0, "lowest quarter of the layers", locations.published()[0]),
        ("Table 10", "module", "attn.v", "module attn.v", locations.published()[1]),
    ):
        quantity = f"Lift of the {text} among the most changed parameters, ratio ({chosen})"
        lift_ratios = [_lift(frame, by, place) for frame in (theirs, ours)]
        rows.append((item, quantity, *lift_ratios, "08_where"))
    return rows


def _lift(places: pd.DataFrame, by: str, place: object) -> float:
    if by == "quarter" and len(places):
        places = places.assign(quarter=locations.quarters(places["layer"]))
    rows = locations.summary(places, by).set_index(by)["lift"] if len(places) else {}
    return float(rows[place]) if place in rows else np.nan


def _blocks(means: pd.DataFrame) -> tuple:
    """Return the row of Table 11, with the size of the restored block in the paper and ours."""
    size = _largest(means, 0)
    changes, shares = [], []
    for frame, facts in ((layers.published(), BEST_SIZE), (means, size)):
        level_0 = (frame["split"] == "test") & (frame["train_level"] == 0)
        costs = layers.costs(frame[level_0 & (frame["train_size"] == facts)])
        names = layers.block_names(costs["layers"])
        lowest = costs.loc[costs["layers"].isin(names[:1]), "estimate"]
        changes.append(float(lowest.iloc[0]) if len(lowest) else np.nan)
        shares.append(_share_of_layers(names))
    instead = f"{size:,}" if size == BEST_SIZE else f"{size:,} (paper: {BEST_SIZE:,})"
    text = "Change of in-domain Acc from restoring the lowest block of layers "
    text += f"(paper: {shares[0]}; ours: {shares[1]}; accuracy ends at 0), "
    return "Table 11", f"{text}{instead} facts of level 0, points", *changes, "09_layers"


def _share_of_layers(blocks: list[str]) -> str:
    """Return the numbers of layers in the lowest block, such as `0-3`, and in all, as text."""
    if not blocks:
        return html.ABSENT
    ends = [int(name.split("-")[-1]) + 1 for name in blocks]
    return f"{ends[0]} of {ends[-1]}"


def _tasks(means: pd.DataFrame) -> list[tuple]:
    published, rows = tasks.published(), []
    for metric, name in (("xsum_rouge1", "ROUGE-1 on XSum"), ("gsm8k_accuracy", "Acc on GSM8K")):
        text = f"Change of {name} from restoring {SHARE}%, points"
        restored = [_value(f, metric=metric, restored_percent=SHARE) for f in (published, means)]
        before = [_value(f, metric=metric) for f in (published, means)]
        rows.append(("Table 5", text, restored[0] - before[0], restored[1] - before[1], "06_tasks"))
    return rows


def _gain(frame: pd.DataFrame, split: str, size: int) -> float:
    at = {"split": split, "train_size": size}
    return _value(frame, restored_percent=SHARE, **at) - _value(frame, **at)


def _value(frame: pd.DataFrame, column: str = "accuracy", **where) -> float:
    """Return the value at level 0 without restoration, or at `where`; NaN if it is not unique."""
    for name, value in ({"train_level": 0, "restored_percent": 0} | where).items():
        if name in frame:
            frame = frame[frame[name] == value]
    return float(frame[column].iloc[0]) if len(frame) == 1 else np.nan


def _largest(frame: pd.DataFrame, level: int) -> int:
    sampled = summary.sizes(frame[frame["train_level"] == level])
    return sampled[-1] if sampled else 0


def _instead(size: int) -> str:
    return f"{LARGE_SIZE:,}" if size == LARGE_SIZE else f"{size:,} (paper: {LARGE_SIZE:,})"


def _texts(item: str, quantity: str, theirs, ours: float, notebook: str) -> tuple:
    numeric = not isinstance(theirs, str) and not np.isnan(ours)
    difference = html.signed(ours - theirs) if numeric else html.ABSENT
    shown = theirs if isinstance(theirs, str) else _number(theirs)
    return item, quantity, shown, _number(ours), difference, f"notebooks/{notebook}.py"


def _number(value: float) -> str:
    return html.ABSENT if np.isnan(value) else html.signed(value).removeprefix("+")
