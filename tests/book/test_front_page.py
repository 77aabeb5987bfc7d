"""The front page's cards: every number is a comparison of the records, none is typed."""

import re

import numpy as np
import pandas as pd
import pytest

from repro import paper
from repro.book import front_page
from repro.paper.quotes import quoted
from repro.study import open_study

COLUMNS = ["claim", "estimate", "low", "high", "verdict"]


def rows(*values: tuple) -> pd.DataFrame:
    return pd.DataFrame(values, columns=COLUMNS)


def test_the_papers_gain_is_its_tables():
    table = paper.table("restore").query("split == 'test' and train_size == 1920")
    level_0 = table[table["train_level"] == 0].set_index("restored_percent")["accuracy"]
    assert front_page._gain_of_paper() == level_0[20] - level_0[0] == pytest.approx(9.85)


def test_a_line_is_the_comparison_nearest_to_the_papers():
    falls = rows(
        ("level 0: 1,920 facts are worse than 240", -8.0, -9.0, -7.0, "supported"),
        ("level 0: all 3,215 facts are worse than 240", -9.0, -9.5, -8.5, "supported"),
        ("level 1: 1,920 facts are worse than 240", 1.0, 0.5, 1.5, "contradicted"),
        ("level 2: 1,920 facts are worse than 240", np.nan, np.nan, np.nan, "undecided"),
    )
    line = front_page._line("M", falls)
    assert (line.estimate, line.low, line.high) == (-8.0, -9.0, -7.0)
    assert line.count == "holds in 2 of 3, the opposite in 1"
    levels = rows(
        ("1,920 facts: level 0 is worse than level 2", -12.0, -13.0, -11.0, "supported"),
        ("1,920 facts: level 0 is worse than level 4", -14.0, -15.0, -13.0, "supported"),
    )
    assert front_page._line("M", levels).estimate == -12.0
    assert front_page._line("M", levels).count == "holds in 2 of 2"
    assert front_page._line("M", levels[:0]) is None


def test_a_card_shows_the_paper_first_and_escapes_names():
    paper_line = front_page.Line("LLaMA-3-8B (paper)", "level 0", -8.86)
    ours = front_page.Line("<b>x</b>", "a & b", -2.04, -3.0, -1.0, "holds in 1 of 2")
    text = front_page._html(front_page.Card("Title", "Claim.", "page.html", [paper_line, ours]))
    assert "<b>x" not in text and "&lt;b&gt;x&lt;/b&gt;" in text and "a &amp; b" in text
    assert re.findall(r"−\d+\.\d", re.sub("<svg.*?</svg>", "", text)) == [
        *("−8.9", "−8.9", "−2.0", "−3.0", "−1.0")
    ]
    assert text.count("<circle") == 2 and text.count("holds in") == 1
    assert text.index("(paper)") < text.index("&lt;b")


def test_the_papers_numbers_are_its_own_words():
    names = set(quoted()["name"])
    assert {"level_0", "gap"} <= names


def test_of_a_model_with_two_studies_the_last_is_shown():
    shown = front_page._studies(open_study("micro-m", "full"))
    names = [study.model.name for study in shown]
    assert names[0] == "micro-m" and len(set(names)) == len(names)
    assert {s.profile.name for s in shown if s.model.name == "smollm2-135m"} == {"real"}
    quick = front_page._studies(open_study("smollm2-135m", "quick"))
    assert [s.profile.name for s in quick if s.model.name == "smollm2-135m"] == ["quick"]
