"""Tables 3, 4 and 6: layout, shading, absent cells, curves."""

import made_up
import numpy as np
import pytest
from table_cells import rows, styles

from repro import paper
from repro.report import (
    html,
    restoration,
    style,
)
from repro.statistics import summary

IN_DOMAIN = paper.table("restore").query("split == 'test'")
ACCURACY = made_up.accuracy(sizes=[*made_up.SIZES, (3000, "All")], percents=(0, 1, 5, 20))
MEANS = summary.means(ACCURACY)
RESTORE = paper.table("restore")


def curve(axis, level):
    """The data of the line in a level's colour."""
    lines = [line for line in axis.lines if line.get_color() == style.COLOURS[level]]
    return lines[0].get_xydata()


def test_restoration_has_the_papers_layout():
    body = rows(restoration.table(IN_DOMAIN, "Table 4(a)"))[1:]
    assert len(body) == 16
    assert body[0] == ["240", "0", "55.33", "57.96", "59.32", "59.12", "53.97"]
    assert body[1] == [
        "1%",
        "55.76|+0.43",
        "58.17|+0.21",
        "59.62|+0.30",
        "59.24|+0.12",
        "54.30|+0.33",
    ]
    assert body[8][:2] == ["1,920", "0"]
    assert body[6][0] == "40%" and body[6][2] == "33.40|−24.56"


def test_gains_are_green_and_bold_and_losses_red_and_not_bold():
    css = styles(restoration.table(IN_DOMAIN, "Table 4(a)"))
    assert "rgba(0,150,90" in css["row1_col0"] and "bold" in css["row1_col0"]
    assert "rgba(215,60,50" in css["row6_col1"] and "bold" not in css["row6_col1"]
    assert "rgba" not in css.get("row0_col0", "")


def test_the_asked_share_is_framed():
    table = restoration.table(IN_DOMAIN, "t", mark=20.0)
    assert [row[0] for row in rows(table)[1:] if "▸" in "".join(row)] == ["▸ 20%", "▸ 20%"]
    assert "border-top" in styles(table)["row5_col0"]
    assert "border-top" not in styles(table).get("row4_col0", "")


def test_a_level_without_runs_is_a_dash_not_zero():
    body = rows(restoration.table(IN_DOMAIN.query("train_level != 3"), "t"))[1:]
    assert {row[-2] for row in body} == {html.ABSENT}
    assert "0.00" not in "".join("".join(row[-2:-1]) for row in body)


def test_a_true_zero_is_a_zero():
    frame = IN_DOMAIN.query("train_level == 0").copy()
    frame.loc[frame["restored_percent"] == 60, "accuracy"] = 0.0
    last = rows(restoration.table(frame, "t"))[-1]
    assert last[1].startswith("0.00|−")


def test_without_a_row_to_compare_with_nothing_is_shaded():
    table = restoration.table(IN_DOMAIN.query("restored_percent > 0"), "t")
    assert "rgba" not in table.html and "+" not in str(rows(table))


def test_two_values_for_one_cell_are_an_error():
    with pytest.raises(ValueError):
        restoration.table(paper.table("restore"), "both splits at once")


def test_special_parameters_are_counted_once_per_run():
    frame = made_up.concentration(levels=(0,), sizes=[(240, "240"), (960, "960")])
    frame = frame.assign(zero_base=frame["sample"] * 10, unchanged=3)
    counted = restoration.special_parameters(frame)
    assert list(counted["train_size"]) == [240, 960] and list(counted["samples"]) == [2, 2]
    assert list(counted["zero_base"]) == [5, 5] and list(counted["n"]) == [100, 100]
    assert restoration.special_parameters(frame.iloc[:0]).empty


def test_curves_are_the_frames_numbers():
    figure = restoration.figure(RESTORE, "test")
    rows = RESTORE.query("split == 'test' and train_size == 1920 and train_level == 2")
    rows = rows.sort_values("restored_percent")[["restored_percent", "accuracy"]]
    np.testing.assert_array_equal(curve(figure.axes[1], 2), rows)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "In-domain, 240 training facts",
        "In-domain, 1,920 training facts",
    ]


def test_the_asked_share_is_ringed():
    figure = restoration.figure(MEANS, "test", 20)
    rings = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert rings and all(set(line.get_xdata()) == {20} for line in rings)


def test_every_level_has_a_colour_and_a_marker_of_its_own():
    figure = restoration.figure(RESTORE, "test")
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert [line.get_marker() for line in lines] == style.MARKERS
    assert [line.get_color() for line in lines] == style.COLOURS
