"""Table 2: layout and best rows."""

import made_up
from table_cells import rows, styles

from repro import paper
from repro.report import (
    html,
    levels,
)


def test_table_2_layout_best_rows_and_spread():
    table = levels.table(paper.table("accuracy_1920"), "Table 2")
    body = rows(table)[2:]
    assert [row[0] for row in (body[0], body[5])] == ["LLaMA-3-8B", "LLaMA-3-70B"]
    assert body[0][2:8] == [
        "1.750.17",
        "16.070.67",
        "55.031.39",
        "71.061.09",
        "83.461.23",
        "45.470.40",
    ]
    css = styles(table)
    assert "bold" in css["row2_col5"] and "bold" not in css.get("row0_col5", "")


def test_table_2_without_some_levels():
    rows_2 = levels.frame(made_up.accuracy(levels=(0, 2), sizes=[(8, "8")]))
    body = rows(levels.table(rows_2, "ours"))[2:]
    assert len(body) == 2
    assert [body[0][i] == html.ABSENT for i in range(2, 8)] == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]
