"""The phenomena and findings as comparisons of runs, on made-up runs and the paper's tables."""

import made_up
import numpy as np
import pandas as pd
import pytest

from repro import paper
from repro.claims import phenomena
from repro.report import divergence
from repro.statistics import summary, verdicts


def means(values, split="test", half=1.0):
    """Acc by (level, size, share) with an interval of one half-width."""
    frame = pd.DataFrame(
        [(split, *key, value) for key, value in values.items()],
        columns=["split", "train_level", "train_size", "restored_percent", "accuracy"],
    )
    return frame.assign(
        low=frame["accuracy"] - half, high=frame["accuracy"] + half, n=1, spread=np.nan
    )


def first(frame, units=None):
    """Both halves of Phenomenon 1."""
    halves = (phenomena.accuracy_rises, phenomena.accuracy_falls)
    return pd.concat([half(frame, units=units) for half in halves], ignore_index=True)


def test_phenomenon_1_appears_in_numbers_that_have_it():
    frame = means({(0, 60, 0): 30, (0, 240, 0): 40, (0, 1920, 0): 30})
    rows = first(frame)
    assert list(rows["verdict"]) == ["supported", "supported"]
    assert list(rows["estimate"]) == [-10, -10]
    assert verdicts.overall(rows) == "holds"


def test_phenomenon_1_is_contradicted_where_more_helps():
    frame = means({(0, 60, 0): 30, (0, 240, 0): 40, (0, 1920, 0): 50})
    assert verdicts.overall(first(frame)) == "contradicted"
    assert verdicts.overall(phenomena.accuracy_rises(frame)) == "holds"


def test_a_size_that_was_not_run_leaves_the_phenomenon_undecided():
    rows = first(means({(0, 60, 0): 30, (0, 240, 0): 40}))
    assert list(rows["verdict"]) == ["supported", "undecided"]
    assert np.isnan(rows["estimate"].iloc[1]) and rows["interval"].iloc[1] == ""
    assert verdicts.overall(rows) == "undecided"
    none = first(means({(0, 6, 0): 30, (0, 12, 0): 40}))
    assert set(none["verdict"]) == {"undecided"}


GRID = (60, 120, 240, 480, 960, 1920)


def grid(accuracy, whole=1920, levels=range(5)):
    """Every level at the seven sizes of the full profile; `accuracy` is a function of both."""
    frame = means({(level, size, 0): accuracy(level, size) for level in levels for size in GRID})
    frame["size_label"] = frame["train_size"].astype(str)
    every = frame[frame["train_size"] == 1920].assign(size_label="All", train_size=whole)
    every["accuracy"] = [accuracy(level, whole) for level in levels]
    return pd.concat([frame, every], ignore_index=True)


def peak(level, size):
    """Best at 240 facts, worse the fewer, and the more the lower the level."""
    return 60 - abs(np.log2(size / 240)) * (5 - level)


def test_the_whole_grid_is_judged_at_its_ends():
    rows = phenomena.accuracy_falls(grid(peak, whole=3000))
    assert list(rows["claim"][:2]) == [
        "level 0: 1,920 facts are worse than 240",
        "level 0: all 3,000 facts are worse than 240",
    ]
    assert len(rows) == 10 and verdicts.overall(rows) == "holds"
    assert list(phenomena.accuracy_rises(grid(peak))["claim"])[4].startswith("level 4: 60 facts")
    assert verdicts.overall(phenomena.level_0_is_worst(grid(peak))) == "holds"


def test_a_pool_as_large_as_a_sampled_size_is_not_mixed_up_with_it():
    rows = phenomena.accuracy_falls(grid(peak, whole=1920))
    assert rows["estimate"].notna().all() and len(rows) == 10


def test_a_pool_no_larger_than_the_peak_is_not_compared():
    assert len(phenomena.accuracy_falls(grid(peak, whole=240))) == 5


def test_where_all_levels_fall_alike_level_0_has_not_fallen_more():
    rows = phenomena.level_0_is_worst(grid(lambda level, size: 60 + 5 * level - size / 100))
    assert list(rows["verdict"]) == ["supported"] * 4 + ["undecided"] * 4
    assert verdicts.overall(rows) == "undecided"


def test_no_comparison_is_undecided_and_says_so():
    empty = phenomena.accuracy_falls(means({}))
    assert verdicts.overall(empty) == "undecided"
    assert "Of 0 comparisons" in verdicts.sentence("Phenomenon 1", empty)


def test_level_0_is_worst_on_the_papers_table_4():
    table = paper.table("restore").assign(n=1, spread=np.nan)
    table = table.assign(low=table["accuracy"] - 1, high=table["accuracy"] + 1)
    rows = phenomena.level_0_is_worst(table)
    assert len(rows) == 8 and verdicts.overall(rows) == "holds"
    # The text's 1,920 against 240, which Table 4 contradicts for level 4.
    verdict_of = phenomena.accuracy_falls(table).set_index("claim")["verdict"]
    assert verdict_of["level 4: 1,920 facts are worse than 240"] != "supported"
    assert verdict_of["level 0: 1,920 facts are worse than 240"] == "supported"


def test_restoring_helps_names_every_restored_run():
    frame = means({(0, 240, 0): 30, (0, 240, 20): 36, (1, 240, 0): 30, (1, 240, 20): 24})
    assert list(phenomena.restoring_helps(frame, 20)["verdict"]) == ["supported", "contradicted"]


def test_larger_gain_uses_the_share_chosen_on_dev():
    values = {(0, 240, 0): 30, (0, 240, 5): 31, (0, 240, 20): 33}
    values |= {(0, 1920, 0): 20, (0, 1920, 5): 26, (0, 1920, 20): 40}
    dev = {key: value if key[2] != 20 else 0 for key, value in values.items()}
    rows = phenomena.larger_gain(pd.concat([means(values), means(dev, "dev")]))
    assert list(rows["estimate"]) == [5.0]  # gains of 6 and 1 at 5 %, not 20 and 3 at 20 %


def test_balance_compares_levels_on_what_they_know():
    def levels(values):
        frame = means({(trained, 240, 0): 0 for trained, _ in values})
        return pd.concat(
            frame[frame["train_level"] == trained].assign(
                test_level=tested, accuracy=value, low=value - 1, high=value + 1
            )
            for (trained, tested), value in values.items()
        )

    whole = means({(0, 240, 0): 30, (2, 240, 0): 45, (4, 240, 0): 40})
    by_level = levels({(0, 4): 50, (4, 4): 90, (4, 1): 10, (0, 1): 20})
    rows = phenomena.balance(by_level, whole, 240)
    assert list(rows["verdict"]) == ["supported", "undecided", "supported", "supported"]
    assert phenomena.balance(by_level, whole, 9).empty
    two = whole[whole["train_level"] != 2]
    assert len(phenomena.balance(by_level, two, 240)) == 2  # no middle, no claim about it


def test_divergence_falls_then_rises():
    frame = pd.DataFrame({"train_level": 0, "train_size": [60, 240, 1920], "kl": [0.9, 0.2, 0.8]})
    frame = frame.assign(low=frame["kl"] - 0.1, high=frame["kl"] + 0.1, spread=np.nan, n=1)
    for half in (phenomena.divergence_falls, phenomena.divergence_rises):
        assert list(half(frame)["verdict"]) == ["supported"]
        assert list(half(frame.assign(low=np.nan, high=np.nan))["verdict"]) == ["undecided"]


def answers(chances, samples=5, questions=80):
    """Units of `Study.answers`: one run per (level, size, share), its chance of a right answer.

    The same luck decides a question in every run, so a better run answers what a worse one does.
    """
    generator = np.random.default_rng(7)
    luck = generator.random((samples, 2 * questions))
    levels = np.repeat([0, 1], questions)
    columns = ["train_level", "train_size", "restored_percent", "split", "sample"]
    columns += ["values", "sizes", "strata"]
    return pd.DataFrame(
        [
            (*run, "test", n, (luck[n] < chance).astype(np.int8), np.ones_like(levels), levels)
            for run, chance in chances.items()
            for n in range(samples)
        ],
        columns=columns,
    )


def counted(units):
    """The same answers as `Study.accuracy` counts them."""
    rows = []
    for unit in units.to_dict("records"):
        for level in (0, 1):
            answers = unit["values"][unit["strata"] == level]
            rows.append(
                unit | {"test_level": level, "correct": int(answers.sum()), "total": len(answers)}
            )
    return pd.DataFrame(rows).drop(columns=["values", "sizes", "strata"])


def test_paired_answers_decide_what_answers_apart_do_not():
    units = answers({(0, 240, 0): 0.45, (0, 240, 20): 0.52})
    frame = summary.means(counted(units))
    apart = phenomena.restoring_helps(frame, 20)
    paired = phenomena.restoring_helps(frame, 20, units=units)
    assert paired["estimate"].item() == pytest.approx(apart["estimate"].item())
    assert (apart["interval"].item(), paired["interval"].item()) == ("apart", "paired")
    assert (apart["verdict"].item(), paired["verdict"].item()) == ("undecided", "supported")
    assert paired["low"].item() > apart["low"].item()


def test_runs_whose_answers_were_not_kept_stand_apart():
    units = answers({(0, 240, 0): 0.3, (0, 240, 20): 0.6})
    frame = summary.means(counted(units))
    for with_answers in (units[units["restored_percent"] == 0], pd.DataFrame()):
        rows = phenomena.restoring_helps(frame, 20, units=with_answers)
        assert rows["interval"].item() == "apart" and rows["verdict"].item() == "supported"


def test_paired_divergence_draws_topics():
    topics = [f"P{n}" for n in range(10)]
    frame = made_up.divergence(levels=(0,), sizes=[(60, "60"), (240, "240")], topics=topics)
    shared = np.random.default_rng(8).gamma(2.0, 2.0, len(topics))
    frame["kl_sum"] = shared[frame["topic"].str[1:].astype(int)] + 2 * (frame["train_size"] == 60)
    kl, units = divergence.means(frame), divergence.topic_units(frame)
    assert phenomena.divergence_falls(kl)["verdict"].item() == "undecided"
    (rows,) = phenomena.divergence_falls(kl, units).to_dict("records")
    assert (rows["verdict"], rows["interval"]) == ("supported", "paired")
    assert rows["estimate"] == pytest.approx(0.2)


def test_rank_correlation_needs_runs_and_variation():
    kl = np.arange(10) / 10
    joined = pd.DataFrame({"kl": kl, "accuracy": 50 - 30 * kl})
    assert phenomena.divergence_lowers_accuracy(joined)["verdict"].item() == "supported"
    assert phenomena.divergence_lowers_accuracy(joined.iloc[:3])["verdict"].item() == "undecided"
    flat = joined.assign(accuracy=1.0)
    assert phenomena.divergence_lowers_accuracy(flat)["verdict"].item() == "undecided"


def test_quoted_changes_repeat_the_papers_own_table():
    frame = phenomena.quoted_changes(summary.means(made_up.accuracy()))
    by = frame.set_index("quantity")
    assert by.loc["level 0: 1,920 facts against 240", "table_4"] == pytest.approx(44.96 - 55.33)
    assert len(frame) == 4 and frame["ours"].notna().all()
