"""Tables: layout, shading, absent cells, links; summaries: means, spreads, chosen shares."""

import base64
import re
from html.parser import HTMLParser
from io import StringIO

import made_up
import numpy as np
import pandas as pd
import pytest

from repro import paper
from repro.report import divergence, html, layout, levels, mastery, restoration, scale
from repro.statistics import summary
from repro.statistics.intervals import wilson
from repro.statistics.summary import acc

IN_DOMAIN = paper.table("restore").query("split == 'test'")


class Cells(HTMLParser):
    """The text of every table row, one list of cells per row."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.open = [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.open = True
            self.rows[-1].append("")
        if tag == "br":
            self.handle_data("|")

    def handle_endtag(self, tag):
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data.strip()


def rows(table):
    return [row for row in Cells(table.html).rows if row]


def styles(table):
    """The CSS of every body cell, by the position pandas gives it."""
    found = {}
    for selector, css in re.findall(r"((?:#T_\w+,?\s*)+)\{([^}]*)\}", table.html):
        for name in re.findall(r"#T_\w+_(row\d+_col\d+)\b", selector):
            found[name] = found.get(name, "") + " ".join(css.split())
    return found


def csv_behind(table):
    encoded = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', table.html).group(1)
    return pd.read_csv(StringIO(base64.b64decode(encoded).decode()))


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


def test_whole_pools_are_one_block_after_the_sizes():
    accuracy = made_up.accuracy(levels=(0,), sizes=[(3000, "All"), (8, "8")])
    other = made_up.accuracy(levels=(1,), sizes=[(700, "All"), (8, "8")], seed=3)
    means = summary.means(pd.concat([accuracy, other])).query("split == 'test'")
    body = rows(scale.table(means, "sizes"))[1:]
    assert [row[-6] for row in body] == ["8", "All"]
    assert html.ABSENT not in body[1][-5:-3]


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


def test_tabs_keep_both_tables_and_show_the_first():
    parts = {"one": html.table(IN_DOMAIN, "a"), "two": html.table(IN_DOMAIN, "b")}
    both = layout.tabs(parts, "Table 4")
    assert both.html.count("<table") == 2 and both._repr_html_() == both.html
    buttons = re.findall(r'<input type="radio"[^>]*>', both.html)
    assert ["checked" in button for button in buttons] == [True, False]


@pytest.mark.parametrize(
    "value, text", [(1.234, "+1.23"), (-1.2, "−1.20"), (0.001, "0.00"), (-0.001, "0.00")]
)
def test_signed(value, text):
    assert html.signed(value) == text


def test_means_over_samples_by_hand():
    accuracy = made_up.accuracy(levels=(0, 1), sizes=[(8, "8")], samples=2)
    got = summary.means(accuracy).query("split == 'test' and train_level == 1").iloc[0]
    runs = accuracy.query("split == 'test' and train_level == 1")
    cells = runs.groupby(["sample", "test_level"])[["correct", "total"]].sum()
    by_sample = (100 * cells["correct"] / cells["total"]).groupby("sample").mean()
    assert got["accuracy"] == pytest.approx(by_sample.mean())
    assert got["spread"] == pytest.approx(abs(by_sample[0] - by_sample[1]) / np.sqrt(2))
    assert got["n"] == 2 and got["total"] == runs["total"].sum()


def test_more_samples_of_the_same_questions_do_not_narrow_the_interval():
    one = made_up.accuracy(levels=(0, 1), sizes=[(8, "8")], samples=1)
    copies = pd.concat([one.assign(sample=i) for i in range(5)])
    columns = ["accuracy", "low", "high"]
    left, right = (summary.means(f).query("train_level == 1")[columns] for f in (one, copies))
    np.testing.assert_allclose(left, right)
    assert summary.means(one)["spread"].isna().all()


def test_a_single_level_has_the_wilson_interval():
    levels = summary.per_level(made_up.accuracy(samples=1))
    low, high = wilson(levels["correct"], levels["total"])
    np.testing.assert_allclose(levels["low"], 100 * low)
    np.testing.assert_allclose(levels["high"], 100 * high)


def test_per_level_means_to_acc():
    accuracy = made_up.accuracy()
    run = ["train_level", "train_size", "split"]
    by_level = summary.per_level(accuracy).groupby(run)["accuracy"].mean()
    means = summary.means(accuracy).set_index(run)["accuracy"]
    np.testing.assert_allclose(by_level.loc[means.index], means)
    assert acc(accuracy, by=[]).shape == (1, 6)


def test_best_share_is_chosen_on_one_split_and_reported_on_another():
    frame = pd.DataFrame(
        [
            (8, 0, split, share, value)
            for split, values in {"dev": (10, 30, 30), "test": (10, 12, 40)}.items()
            for share, value in zip((0.0, 5.0, 20.0), values, strict=True)
        ],
        columns=["train_size", "train_level", "split", "restored_percent", "accuracy"],
    ).assign(low=0.0, high=50.0, spread=np.nan, n=1)
    fair, unfair = (summary.best_share(frame, on).iloc[0] for on in ("dev", "test"))
    assert (fair["restored_percent"], fair["accuracy"], fair["gain"]) == (5.0, 12, 2)
    assert (unfair["restored_percent"], unfair["accuracy"], unfair["gain"]) == (20.0, 40, 30)


def test_restored_compares_only_the_samples_that_were_restored():
    plain = made_up.accuracy(levels=(0,), sizes=[(8, "8"), (240, "240")], samples=3)
    some = made_up.accuracy(levels=(0,), sizes=[(240, "240")], samples=1, percents=(5,))
    kept = summary.restored(pd.concat([plain, some.query("train_level == 0")]))
    assert set(kept["train_size"]) == {240} and set(kept["sample"]) == {0}
    assert set(kept["restored_percent"]) == {0, 5}


def test_divergence_is_the_mean_over_facts():
    frame = pd.DataFrame(
        {"train_level": 0, "train_size": 8, "sample": 0, "topic": ["a", "b"]}
        | {"facts": [1, 3], "kl_sum": [1.0, 0.6]}
    )
    row = divergence.means(frame).iloc[0]
    assert row["kl"] == pytest.approx(0.4) and row["facts"] == 4
    # Residuals are 1 − 0.4 and 0.6 − 1.2, so the variance is 2 · (0.36 + 0.36) / 16.
    assert row["high"] - row["kl"] == pytest.approx(1.959964 * 0.3)
    alone = divergence.means(frame.iloc[:1]).iloc[0]
    assert np.isnan(alone["low"]) and np.isnan(alone["high"])


def test_frames_without_runs_are_summarised_as_empty():
    assert divergence.means(pd.DataFrame()).empty
    assert restoration.concentration_means(pd.DataFrame()).empty


def test_templates_are_rates_per_topic():
    facts = made_up.mastery(facts=30, templates=4, draws=5)
    success = mastery.template_rates(facts)
    one = facts[facts["topic"] == "P17"]
    assert list(success.columns) == [1, 2, 3, 4]
    assert success.loc["P17", 2] == pytest.approx(100 * one["t01"].sum() / (5 * len(one)))
    best = mastery.best_templates(success, dict.fromkeys(success.index, ("a", "b", "c", "d")))
    assert best["best"].is_monotonic_decreasing and set(best["template"]) <= set("abcd")


def test_level_shares_have_intervals():
    shares = mastery.level_shares(made_up.distribution()).query("split == 'train'")
    assert shares["share"].sum() == pytest.approx(100)
    assert ((shares["low"] <= shares["share"]) & (shares["share"] <= shares["high"])).all()
    assert shares.query("count == 0")["high"].gt(0).all()


@pytest.mark.parametrize(
    "value, text", [(3e-5, "3e-05"), (1e-17, "0.00"), (0.0, "0.00"), (1e-3, "0.001")]
)
def test_show_keeps_small_rates_and_drops_rounding_noise(value, text):
    assert rows(html.table(pd.DataFrame({"rate": [value]}), "t"))[1] == [text]


def test_special_parameters_are_counted_once_per_run():
    frame = made_up.concentration(levels=(0,), sizes=[(240, "240"), (960, "960")])
    frame = frame.assign(zero_base=frame["sample"] * 10, unchanged=3)
    found = restoration.special_parameters(frame)
    assert list(found["train_size"]) == [240, 960] and list(found["samples"]) == [2, 2]
    assert list(found["zero_base"]) == [5, 5] and list(found["n"]) == [100, 100]
    assert restoration.special_parameters(frame.iloc[:0]).empty


def test_learning_rates_take_the_same_questions_once():
    runs = made_up.accuracy(levels=(0,), sizes=[(8, "8")], samples=5).query("split == 'dev'")
    runs = runs.query("train_level == 0").assign(learning_rate=1e-4)
    alone, five = runs.query("sample == 0"), runs.assign(correct=runs["correct"].iloc[0])
    one = scale.learning_rate_means(alone.assign(correct=runs["correct"].iloc[0])).iloc[0]
    row = scale.learning_rate_means(five).iloc[0]
    assert (row["n"], row["total"]) == (5, 5 * one["total"])
    assert row["low"] == pytest.approx(one["low"]) and row["spread"] == pytest.approx(0)


def test_a_table_of_nothing_is_a_line():
    assert (
        html.table(pd.DataFrame(), "Loss & gain").html
        == '<p class="repro-note">Loss &amp; gain: –</p>'
    )
