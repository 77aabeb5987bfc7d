"""Restoring blocks of layers: what is compared with what, and how it is told."""

from types import SimpleNamespace

import made_up
import numpy as np
import pandas as pd
import pytest

from repro import paper
from repro.report import layers
from repro.statistics.verdicts import CONTRADICTED, SUPPORTED, UNDECIDED

MEANS = layers.means(made_up.layers())


def test_the_papers_table_is_set_against_its_own_row_of_table_4():
    published = layers.published()
    assert len(published) == 40 + 5
    cell = published.query("train_level == 0 and layers == 'none'")["accuracy"].item()
    restore = paper.table("restore").query("split == 'test' and train_size == 240")
    assert cell == restore.query("train_level == 0 and restored_percent == 0")["accuracy"].item()


def test_a_cost_is_the_block_less_nothing_restored():
    costs = layers.costs(MEANS)
    assert len(costs) == 2 * 2 * 2  # levels, blocks, splits
    cost = costs.groupby("layers")["estimate"].unique()
    assert cost["0-1"] == pytest.approx(-15) and cost["2-3"] == pytest.approx(0)
    assert set(costs.query("layers == '2-3'")["verdict"]) == {UNDECIDED}


def test_answers_make_the_intervals_paired():
    answers = np.repeat([1, 0], [32, 8]).astype(np.int8)
    hurt = np.repeat([1, 0], [20, 20]).astype(np.int8)
    rows = [
        (level, 240, block, split, sample, values, np.ones_like(values), np.zeros_like(values))
        for level in (0, 1)
        for block, values in (("none", answers), ("0-1", hurt), ("2-3", answers))
        for split in ("test", "testood")
        for sample in (0, 1)
    ]
    columns = [*layers.KEYS[:2], "layers", "split", "sample", "values", "sizes", "strata"]
    costs = layers.costs(MEANS, pd.DataFrame(rows, columns=columns))
    low = costs.query("layers == '0-1'")
    assert set(low["interval"]) == {"paired"} and set(low["verdict"]) == {SUPPORTED}


def test_blocks_are_in_the_order_of_the_layers():
    assert layers.block_names(pd.Series(["8-11", "none", "0-3", "12-15"])) == [
        "none",
        "0-3",
        "8-11",
        "12-15",
    ]


def test_the_sentence_counts_costs_and_gains():
    costs = pd.DataFrame(
        [("0-1", -15.0, SUPPORTED), ("0-1", -1.0, UNDECIDED), ("2-3", 2.0, CONTRADICTED)],
        columns=["layers", "estimate", "verdict"],
    )
    first, second = layers.sentence(costs).splitlines()
    assert "of 2 runs 1 lose accuracy, 0 gain it, 1 undecided (change −15.00 to −1.00" in first
    assert "of 1 runs 0 lose accuracy, 1 gain it, 0 undecided" in second


def test_the_table_shades_what_a_block_costs():
    html = layers.table(MEANS[MEANS["split"] == "test"], "x").html
    assert html.index(">none<") < html.index(">0-1<") < html.index(">2-3<")
    assert '<span class="change">−15.00</span>' in html and "rgba(215,60,50" in html
    assert "Download" in layers.table(layers.published(), "paper").html


def test_a_profile_without_blocks_has_an_empty_table_and_says_so():
    empty = layers.means(made_up.layers().iloc[:0])
    assert "Download" in layers.table(empty, "none").html
    assert "No layers" in layers.sentence(layers.costs(empty))


def test_blocks_of_several_models_are_counted_by_verdict():
    def study(name: str, answers):
        model, profile = SimpleNamespace(title=name), SimpleNamespace(name="quick")
        results = SimpleNamespace(layers=lambda: answers, answers=lambda requests: None)
        parts = {"grid": SimpleNamespace(layer_runs=list), "requests": None, "results": results}
        return SimpleNamespace(model=model, profile=profile, **parts)

    layer_answers = made_up.layers()
    table = layers.by_model([study("one", layer_answers), study("none", layer_answers.iloc[:0])])
    assert set(table["model"]) == {"one"}
    assert list(table["layers"]) == layers.block_names(MEANS["layers"])[1:]
    costs = layers.costs(MEANS).query("split == 'test'")
    for row in table.itertuples():
        costs_of_block = costs[costs["layers"] == row.layers]
        assert (row.lose, row.gain) == tuple(
            (costs_of_block["verdict"] == v).sum() for v in (SUPPORTED, CONTRADICTED)
        )
        assert row.lose + row.gain + row.undecided == row.runs == len(costs_of_block)
        assert row.change == pytest.approx(costs_of_block["estimate"].mean())
