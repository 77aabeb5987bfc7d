"""Verdicts: the rule, the interval of a difference, and what counts as a run."""

import made_up
import numpy as np
import pandas as pd
import pytest

from repro import paper
from repro.book import overview
from repro.statistics import bootstrap, summary, verdicts
from repro.statistics.intervals import wilson


def row(accuracy, low, high, **more):
    return pd.Series({"accuracy": accuracy, "low": low, "high": high} | more)


@pytest.mark.parametrize(
    "low, high, expected, verdict",
    [
        (-3, -1, "below", "supported"),
        (1, 3, "below", "contradicted"),
        (1, 3, "above", "supported"),
        (-3, -1, "above", "contradicted"),
        (-1, 1, "below", "undecided"),
        (0, 2, "above", "undecided"),
        (np.nan, np.nan, "above", "undecided"),
    ],
)
def test_the_rule(low, high, expected, verdict):
    assert verdicts.judge(low, high, expected) == verdict


def test_difference_of_proportions_is_newcombes():
    # Newcombe (1998), method 10, example (a): 56/70 − 48/80 has the interval 0.0524 to 0.3339.
    rows = [row(100 * c / n, *(100 * b for b in wilson(c, n))) for c, n in ((56, 70), (48, 80))]
    estimate, low, high = verdicts.contrast(zip((1, -1), rows, strict=True), "accuracy")
    assert estimate == pytest.approx(20)
    assert (low, high) == pytest.approx((5.24, 33.39), abs=0.01)


def test_spread_between_samples_widens_the_interval():
    tight = [(1, row(50, 45, 55, n=4, spread=0.0)), (-1, row(40, 35, 45, n=4, spread=0.0))]
    loose = [(1, row(50, 45, 55, n=4, spread=6.0)), (-1, row(40, 35, 45, n=4, spread=6.0))]
    alone = [(1, row(50, 45, 55, n=1, spread=np.nan)), (-1, row(40, 35, 45, n=1, spread=np.nan))]
    width = {k: np.diff(verdicts.contrast(t, "accuracy")[1:])[0] for k, t in
             {"tight": tight, "loose": loose, "alone": alone}.items()}  # fmt: skip
    assert width["tight"] == pytest.approx(width["alone"]) and width["loose"] > width["tight"]


def test_the_interval_covers_the_truth():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        rows = []
        for chance in (0.05, 0.12):
            correct = generator.binomial(150, chance)
            rows.append(row(100 * correct / 150, *(100 * b for b in wilson(correct, 150))))
        _, low, high = verdicts.contrast(zip((1, -1), rows, strict=True), "accuracy")
        inside += low <= -7 <= high
    assert 0.92 <= inside / 400 <= 0.99


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
    halves = (verdicts.fewer_is_worse, verdicts.more_is_worse)
    return pd.concat([half(frame, units=units) for half in halves], ignore_index=True)


def test_phenomenon_1_appears_in_numbers_that_have_it():
    frame = means({(0, 60, 0): 30, (0, 240, 0): 40, (0, 1920, 0): 30})
    found = first(frame)
    assert list(found["verdict"]) == ["supported", "supported"]
    assert list(found["estimate"]) == [-10, -10]
    assert verdicts.overall(found) == "supported"


def test_phenomenon_1_is_contradicted_where_more_helps():
    frame = means({(0, 60, 0): 30, (0, 240, 0): 40, (0, 1920, 0): 50})
    assert verdicts.overall(first(frame)) == "contradicted"
    assert verdicts.overall(verdicts.fewer_is_worse(frame)) == "supported"


def test_a_size_that_was_not_run_leaves_the_phenomenon_undecided():
    found = first(means({(0, 60, 0): 30, (0, 240, 0): 40}))
    assert list(found["verdict"]) == ["supported", "undecided"]
    assert np.isnan(found["estimate"].iloc[1]) and found["interval"].iloc[1] == ""
    assert verdicts.overall(found) == "undecided"
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
    found = verdicts.more_is_worse(grid(peak, whole=3000))
    assert list(found["claim"][:2]) == [
        "level 0: 1,920 facts are worse than 240",
        "level 0: all 3,000 facts are worse than 240",
    ]
    assert len(found) == 10 and verdicts.overall(found) == "supported"
    assert list(verdicts.fewer_is_worse(grid(peak))["claim"])[4].startswith("level 4: 60 facts")
    assert verdicts.overall(verdicts.level_matters(grid(peak))) == "supported"


def test_a_pool_as_large_as_a_sampled_size_is_not_mixed_up_with_it():
    found = verdicts.more_is_worse(grid(peak, whole=1920))
    assert found["estimate"].notna().all() and len(found) == 10


def test_a_pool_no_larger_than_the_peak_is_not_compared():
    assert len(verdicts.more_is_worse(grid(peak, whole=240))) == 5


def test_where_all_levels_fall_alike_level_0_has_not_fallen_more():
    found = verdicts.level_matters(grid(lambda level, size: 60 + 5 * level - size / 100))
    assert list(found["verdict"]) == ["supported"] * 4 + ["undecided"] * 4
    assert verdicts.overall(found) == "undecided"


def test_no_comparison_is_undecided_and_says_so():
    empty = verdicts.more_is_worse(means({}))
    assert verdicts.overall(empty) == "undecided"
    assert "Of 0 comparisons" in verdicts.sentence("Phenomenon 1", empty)


def test_level_0_is_worst_on_the_papers_table_4():
    table = paper.table("restore").assign(n=1, spread=np.nan)
    table = table.assign(low=table["accuracy"] - 1, high=table["accuracy"] + 1)
    found = verdicts.level_matters(table)
    assert len(found) == 8 and verdicts.overall(found) == "supported"
    # The text's 1,920 against 240, which Table 4 contradicts for level 4.
    more = verdicts.more_is_worse(table).set_index("claim")["verdict"]
    assert more["level 4: 1,920 facts are worse than 240"] != "supported"
    assert more["level 0: 1,920 facts are worse than 240"] == "supported"


def test_restoring_helps_names_every_restored_run():
    frame = means({(0, 240, 0): 30, (0, 240, 20): 36, (1, 240, 0): 30, (1, 240, 20): 24})
    assert list(verdicts.restoring_helps(frame, 20)["verdict"]) == ["supported", "contradicted"]


def test_larger_gain_uses_the_share_chosen_on_dev():
    values = {(0, 240, 0): 30, (0, 240, 5): 31, (0, 240, 20): 33}
    values |= {(0, 1920, 0): 20, (0, 1920, 5): 26, (0, 1920, 20): 40}
    dev = {key: value if key[2] != 20 else 0 for key, value in values.items()}
    found = verdicts.larger_gain(pd.concat([means(values), means(dev, "dev")]))
    assert list(found["estimate"]) == [5.0]  # gains of 6 and 1 at 5 %, not 20 and 3 at 20 %


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
    found = verdicts.balance(by_level, whole, 240)
    assert list(found["verdict"]) == ["supported", "undecided", "supported", "supported"]
    assert verdicts.balance(by_level, whole, 9).empty
    two = whole[whole["train_level"] != 2]
    assert len(verdicts.balance(by_level, two, 240)) == 2  # no middle, no claim about it


def test_divergence_falls_then_rises():
    frame = pd.DataFrame({"train_level": 0, "train_size": [60, 240, 1920], "kl": [0.9, 0.2, 0.8]})
    frame = frame.assign(low=frame["kl"] - 0.1, high=frame["kl"] + 0.1, spread=np.nan, n=1)
    for half in (verdicts.falls, verdicts.rises):
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
            own = unit["values"][unit["strata"] == level]
            rows.append(unit | {"test_level": level, "correct": int(own.sum()), "total": len(own)})
    return pd.DataFrame(rows).drop(columns=["values", "sizes", "strata"])


def test_paired_answers_decide_what_answers_apart_do_not():
    units = answers({(0, 240, 0): 0.45, (0, 240, 20): 0.52})
    frame = summary.means(counted(units))
    apart = verdicts.restoring_helps(frame, 20)
    paired = verdicts.restoring_helps(frame, 20, units=units)
    assert paired["estimate"].item() == pytest.approx(apart["estimate"].item())
    assert (apart["interval"].item(), paired["interval"].item()) == ("apart", "paired")
    assert (apart["verdict"].item(), paired["verdict"].item()) == ("undecided", "supported")
    assert paired["low"].item() > apart["low"].item()


def test_runs_whose_answers_were_not_kept_stand_apart():
    units = answers({(0, 240, 0): 0.3, (0, 240, 20): 0.6})
    frame = summary.means(counted(units))
    for kept in (units[units["restored_percent"] == 0], pd.DataFrame()):
        found = verdicts.restoring_helps(frame, 20, units=kept)
        assert found["interval"].item() == "apart" and found["verdict"].item() == "supported"


def test_paired_divergence_draws_topics():
    topics = [f"P{n}" for n in range(10)]
    frame = made_up.divergence(levels=(0,), sizes=[(60, "60"), (240, "240")], topics=topics)
    shared = np.random.default_rng(8).gamma(2.0, 2.0, len(topics))
    frame["kl_sum"] = shared[frame["topic"].str[1:].astype(int)] + 2 * (frame["train_size"] == 60)
    kl, units = summary.divergence(frame), bootstrap.of_topics(frame)
    assert verdicts.falls(kl)["verdict"].item() == "undecided"
    (found,) = verdicts.falls(kl, units).to_dict("records")
    assert (found["verdict"], found["interval"]) == ("supported", "paired")
    assert found["estimate"] == pytest.approx(0.2)


def test_rank_correlation_needs_runs_and_variation():
    kl = np.arange(10) / 10
    joined = pd.DataFrame({"kl": kl, "accuracy": 50 - 30 * kl})
    assert verdicts.divergence_hurts(joined)["verdict"].item() == "supported"
    assert verdicts.divergence_hurts(joined.iloc[:3])["verdict"].item() == "undecided"
    flat = joined.assign(accuracy=1.0)
    assert verdicts.divergence_hurts(flat)["verdict"].item() == "undecided"


class Measured:
    """The frames of a study that was never run, and no example."""

    def __init__(self, name, **options):
        named = {"name": name, "folder": None, "control_percents": (5, 20), "facts": "atlas"}
        self.model = self.profile = type("Named", (), named)
        self.frame = made_up.accuracy(percents=(0, 20), **options)

    def accuracy(self):
        return self.frame

    def distribution(self):
        return made_up.distribution()

    def divergence(self):
        return made_up.divergence()

    def concentration(self):
        return made_up.concentration()

    def logits_example(self):
        return {}

    def compared_level(self):
        return 2

    def controls(self):
        return made_up.controls()

    def control_runs(self):
        return []

    def mixed(self):
        return self.frame.query("train_level == 0 and restored_percent == 0").assign(train_level=-2)

    def lora(self):
        return pd.DataFrame()

    instruct = lora

    def where(self):
        return made_up.where()

    def layers(self):
        return made_up.layers()

    def asked(self, run, split):
        return pd.DataFrame({"level": [0, 1] * 40})

    def answers(self, tasks=None):
        return pd.DataFrame()


ITEMS = (
    "Table 1,Table 8,Figure 2,Figure 6,Table 2,Figure 3,Figure 4,Figure 5,Table 3,Table 4,"
    "Table 5,Table 5,Table 6,Table 7,Table 9,Table 10,Table 11"
)


def test_overview_has_a_row_per_table_and_figure():
    frame = overview.overview(Measured("x"))
    assert list(frame["item"]) == ITEMS.split(",")
    assert (
        frame["command"]
        .str.match(r"papermill notebooks/0\d_\w+\.py -p model x -p profile x$")
        .all()
    )
    by_item = frame.set_index("item")
    assert by_item.loc["Table 1", "ours"] == f"{100 * 30 / 45:.2f}"
    assert by_item.loc["Table 4", "paper"] == "9.85"
    assert by_item.loc["Figure 3", ["paper", "ours", "difference"]].tolist() == [
        "image only",
        "–",
        "–",
    ]
    assert by_item.loc["Table 7", "paper"] == "3.54" and by_item.loc["Table 7", "ours"] != "–"
    assert by_item.loc["Table 9", ["paper", "ours"]].tolist() == ["1.21", "1.50"]
    assert by_item.loc["Table 10", ["paper", "ours"]].tolist() == ["1.33", "2.00"]
    assert by_item.loc["Table 11", "paper"] == "−45.50"
    assert by_item.loc["Table 11", "ours"] == "−15.00"
    assert "960 (paper: 1,920)" in by_item.loc["Table 2", "quantity"]


def test_overview_difference_is_ours_minus_the_papers():
    frame = overview.overview(Measured("x")).set_index("item")
    theirs, ours, difference = (
        float(frame.loc["Table 2", column].replace("−", "-"))
        for column in ("paper", "ours", "difference")
    )
    assert difference == pytest.approx(ours - theirs, abs=0.011)


def test_overview_without_level_0_or_restoration_has_dashes():
    frame = overview.overview(Measured("x", levels=(1, 2))).set_index("item")
    assert frame.loc["Table 2", "ours"] == frame.loc["Table 4", "ours"] == "–"


def test_text_numbers_repeat_the_papers_own_table():
    frame = overview.text_numbers(summary.means(made_up.accuracy()))
    by = frame.set_index("quantity")
    assert by.loc["level 0: 1,920 facts against 240", "table_4"] == pytest.approx(44.96 - 55.33)
    assert len(frame) == 4 and frame["ours"].notna().all()


def test_findings_say_a_line_on_each():
    found = overview.findings(Measured("x"))
    assert "Of 3 comparisons" in found["rises"] and "Of 3 comparisons" in found["falls"]
    assert found["helps"].startswith("**Restoring 20 % helps: ")
    assert "against interpolated" in found["which"]
    assert all(line.startswith("**") and "omparison" in line for line in found.values())


def test_findings_of_a_study_without_runs_are_undecided():
    measured = Measured("x")
    measured.frame = measured.frame[measured.frame["train_level"] < 0]
    measured.divergence = pd.DataFrame
    found = overview.findings(measured)
    assert ": undecided.** Of 0 comparisons" in found["rises"]
    assert ": undecided.** Of 0 comparisons" in found["helps"]
