"""The front page: one row per table and figure, and a line on each finding."""

import made_up
import pandas as pd
import pytest

from repro.book import overview


class Measured(made_up.Strategies):
    """The frames of a study that was never run, and no example."""

    def __init__(self, name, **options):
        named = {"name": name, "folder": None, "control_percents": (5, 20), "facts": "atlas"}
        self.model = self.profile = type("Named", (), named)
        self.frame = made_up.accuracy(percents=(0, 20), **options)
        self.requests = self.pools = self

    def accuracy(self):
        return self.frame

    def distribution(self):
        return made_up.distribution()

    def natural_distribution(self):
        return pd.DataFrame()

    def divergence(self):
        return made_up.divergence()

    def concentration(self):
        return made_up.concentration()

    def runs(self):
        return []

    def compute(self, tasks):
        assert tasks == []

    def compared_level(self):
        return 2

    def controls(self):
        return made_up.controls()

    def control_runs(self):
        return []

    def mixed(self):
        return self.frame.query("train_level == 0 and restored_percent == 0").assign(train_level=-2)

    def locations(self):
        return made_up.where()

    def layers(self):
        return made_up.layers()

    def facts(self, run, split):
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
    assert by_item.loc["Table 9", ["paper", "ours"]].tolist() == ["1.05", "1.50"]
    assert by_item.loc["Table 10", ["paper", "ours"]].tolist() == ["1.33", "2.00"]
    assert by_item.loc["Table 11", "paper"] == "−45.50"
    assert by_item.loc["Table 11", "ours"] == "−15.00"
    assert "(paper: 4 of 32; ours: 2 of 4;" in by_item.loc["Table 11", "quantity"]
    assert "by our choice: top 20%" in by_item.loc["Table 9", "quantity"]
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


def test_findings_say_a_line_on_each():
    lines = overview.findings(Measured("x"))
    assert "Of 3 comparisons" in lines["rises"] and "Of 3 comparisons" in lines["falls"]
    assert lines["helps"].startswith("**Restoring 20 % helps: ")
    assert "against interpolated" in lines["which"]
    assert all(line.startswith("**") and "omparison" in line for line in lines.values())


def test_findings_of_a_study_without_runs_are_undecided():
    measured = Measured("x")
    measured.frame = measured.frame[measured.frame["train_level"] < 0]
    measured.divergence = pd.DataFrame
    lines = overview.findings(measured)
    assert ": undecided.** Of 0 comparisons" in lines["rises"]
    assert ": undecided.** Of 0 comparisons" in lines["helps"]
