"""Tabs, findings and figures around what is shown."""

import re

import pandas as pd
import pytest

from repro import paper
from repro.report import html, layout, restoration, style

IN_DOMAIN = paper.table("restore").query("split == 'test'")


def test_tabs_keep_both_tables_and_show_the_first():
    parts = {"one": html.table(IN_DOMAIN, "a"), "two": html.table(IN_DOMAIN, "b")}
    tabs = layout.tabs(parts, "Table 4")
    assert tabs.html.count("<table") == 2 and tabs._repr_html_() == tabs.html
    buttons = re.findall(r'<input type="radio"[^>]*>', tabs.html)
    assert ["checked" in button for button in buttons] == [True, False]


def comparisons(*verdicts):
    return pd.DataFrame({"verdict": verdicts}).assign(p_for=0.001, p_against=0.001)


def finding(*verdicts):
    rows = comparisons(*verdicts)
    claim = "More is <b>not</b> better."
    return layout.Finding("Phenomenon 1", claim, rows, "more hurts", "more helps")


@pytest.mark.parametrize(
    "verdicts, text",
    [
        (["supported"] * 3, "More hurts in all 3 comparisons"),
        (["contradicted"], "More helps in 1 of 1 comparison"),
        (
            ["supported"] + ["contradicted"] * 2 + ["undecided"],
            "More helps in 2 of 4 comparisons; the opposite in 1, undecided in 1",
        ),
        (["undecided"] * 2, "More hurts in 0 of 2 comparisons; undecided in 2"),
        ([], "Nothing to compare in this profile"),
    ],
)
def test_a_finding_says_its_direction_and_how_often(verdicts, text):
    assert finding(*verdicts).text() == text


def test_a_verdict_stands_beside_its_claim():
    block = layout.findings("micro <m>", [finding("contradicted"), finding("supported")]).html
    claim = "More is &lt;b&gt;not&lt;/b&gt; better."
    assert block.count(claim) == 2 and "micro &lt;m&gt;" in block
    for sign in ("✗ contradicted", "✓ holds"):
        assert block.rindex(claim, 0, block.index(sign)) > 0


def test_a_figure_has_number_caption_and_text_and_colours_for_both_modes():
    drawn = restoration.figure(paper.table("restore"), "test")
    shown = layout.figure(drawn, "5.1", "Acc & share", "Curves of accuracy")
    assert "<b>Figure 5.1.</b> Acc &amp; share" in shown.html
    assert 'role="img" aria-label="Curves of accuracy"' in shown.html
    light = set(re.findall(r"var\(--c-([0-9a-f]{6}),#\1\)", shown.html))
    dark = dict(re.findall(r"--c-([0-9a-f]{6}):(#[0-9a-f]{6});", shown.html))
    assert {colour[1:] for colour in style.COLOURS} <= light & set(dark)
    assert dark["000000"] > "#d"
    plain = r"[^(,]#[0-9a-f]{6}\b"  # a colour that no mode can change
    assert not re.search(plain, shown.html.split("<svg")[1])
    assert shown.html == layout.figure(drawn, "5.1", "Acc & share", "Curves of accuracy").html
