"""Tables: layout, shading, absent cells, links; summaries: means, spreads, chosen shares."""

import re

import made_up
import numpy as np
import pandas as pd
import pytest
from table_cells import csv_behind, rows, styles

from repro import paper
from repro.report import html, levels, mastery, restoration, scale

IN_DOMAIN = paper.table("restore").query("split == 'test'")


def alpha(css):
    return float(re.search(r"rgba\(\d+,\d+,\d+,([\d.]+)\)", css).group(1))


def test_darker_means_larger_and_the_scale_does_not_depend_on_the_table():
    assert alpha(html.shade(0.2)) < alpha(html.shade(3)) < alpha(html.shade(15))
    assert alpha(html.shade(20)) == alpha(html.shade(60)) == alpha(html.shade(-60))
    few = IN_DOMAIN.query("restored_percent <= 1")
    whole, part = (styles(restoration.table(f, "t")) for f in (IN_DOMAIN, few))
    assert whole["row1_col0"] == part["row1_col0"]


@pytest.mark.parametrize("difference", [0, 0.004, -0.004, np.nan])
def test_what_rounds_to_nothing_is_not_shaded(difference):
    assert html.shade(difference) == ""


def luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


@pytest.mark.parametrize("page, text", [("ffffff", "323232"), ("121212", "ced6dd")])
@pytest.mark.parametrize("difference", [60, -60])
def test_text_keeps_its_contrast_on_the_darkest_shade(page, text, difference):
    css = html.shade(difference)
    paint = [int(v) / 255 for v in re.search(r"rgba\((\d+),(\d+),(\d+)", css).groups()]
    below, ink = ([int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in (page, text))
    mixed = [alpha(css) * p + (1 - alpha(css)) * b for p, b in zip(paint, below, strict=True)]
    lighter, darker = sorted([luminance(ink), luminance(mixed)], reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_table_3_and_distribution():
    table = rows(restoration.concentration_table(paper.table("concentration"), "Table 3"))
    assert table[1][2:] == ["70.59", "78.82", "82.35", "87.06", "91.76", "96.47", "99.12"]
    table = rows(mastery.table(made_up.distribution(), "ours"))
    assert table[1] == [
        "made-up",
        "Training",
        "30|66.7%",
        "12|26.7%",
        "3|6.7%",
        "0|0.0%",
        "0|0.0%",
        "45",
    ]


@pytest.mark.parametrize("draw", [restoration.table, scale.table, levels.table, html.table])
def test_no_runs_at_all_still_makes_a_table(draw):
    empty = levels.frame(made_up.accuracy()).iloc[:0]
    assert "<table" in draw(empty, "nothing").html


def test_a_csv_link_returns_the_frame():
    pd.testing.assert_frame_equal(
        csv_behind(restoration.table(IN_DOMAIN, "Table 4(a)")), IN_DOMAIN.reset_index(drop=True)
    )
    assert 'download="table-4-a.csv"' in html.csv_link(IN_DOMAIN, "Table 4(a)").html


def test_tables_are_the_same_every_time_and_have_different_names():
    first, again = (restoration.table(IN_DOMAIN, "t").html for _ in range(2))
    assert first == again
    assert first.split("</style>")[0] != restoration.table(IN_DOMAIN, "u").html.split("</style>")[0]


def test_show_escapes_text_and_marks_what_is_missing():
    frame = pd.DataFrame({"text": ["<b>&", None], "x": [-1.234, np.nan], "n": [12345, 0]})
    table = html.table(frame, "any <frame>")
    assert rows(table)[1:] == [["<b>&", "−1.23", "12,345"], [html.ABSENT, html.ABSENT, "0"]]
    assert "any &lt;frame&gt;" in table.html and "<b>&" not in table.html


@pytest.mark.parametrize(
    "value, text", [(1.234, "+1.23"), (-1.2, "−1.20"), (0.001, "0.00"), (-0.001, "0.00")]
)
def test_signed(value, text):
    assert html.signed(value) == text


@pytest.mark.parametrize(
    "value, text", [(3e-5, "3e-05"), (1e-17, "0.00"), (0.0, "0.00"), (1e-3, "0.001")]
)
def test_show_keeps_small_rates_and_drops_rounding_noise(value, text):
    assert rows(html.table(pd.DataFrame({"rate": [value]}), "t"))[1] == [text]


def test_a_table_of_nothing_is_a_line():
    assert (
        html.table(pd.DataFrame(), "Loss & gain").html
        == '<p class="repro-note">Loss &amp; gain: –</p>'
    )


def test_no_heading_is_empty_and_each_says_what_it_heads():
    for shown in (
        restoration.table(IN_DOMAIN, "one index"),
        levels.table(paper.table("accuracy_1920"), "two rows of headings"),
        html.table(IN_DOMAIN, "any"),
    ):
        headings = re.findall(r"<th([^>]*)>(.*?)</th>", shown.html)
        assert headings and all(text.replace("&nbsp;", "").strip() for _, text in headings)
        assert all('scope="col"' in kind or 'scope="row"' in kind for kind, _ in headings)


def test_a_table_scrolls_in_a_box_that_the_keyboard_reaches():
    shown = restoration.table(IN_DOMAIN, "Table <4>").html
    assert 'tabindex="0" role="region" aria-label="Table &lt;4&gt;"' in shown


def test_spread_and_interval_are_there_on_demand():
    shown = levels.table(paper.table("accuracy_1920"), "Table 2").html
    assert 'class="show-details"' in shown and '<sub class="detail">1.23</sub>' in shown
    assert 'class="show-details"' not in restoration.table(IN_DOMAIN, "no spread").html
