"""Where restored parameters lie: shares, lifts, the paper's by LLaMA-3-8B's sizes."""

from types import SimpleNamespace

import made_up
import pytest

from repro.errors import ConfigError
from repro.report import html, locations

COUNTED = made_up.where()
PLACES = locations.chosen(COUNTED, 20)


def test_the_papers_modules_add_up_to_a_layer_of_llama_3_8b():
    sizes = locations.parameters()
    assert sum(sizes.values()) == 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14_336
    assert sizes["attn.k"] * 4 == sizes["attn.q"]  # 8 heads of keys for 32 of queries
    assert locations.architecture().startswith("4,096 hidden, 32 layers, 14,336 intermediate")


def test_the_papers_lifts_by_hand():
    layers, modules = (
        locations.summary(f, by)
        for f, by in zip(locations.published(), ("layer", "module"), strict=True)
    )
    assert layers.set_index("layer")["lift"][0] == pytest.approx(32 * 3.77 / 100, rel=1e-3)
    lift = modules.set_index("module")["lift"]
    assert lift.idxmax() == "attn.v" and lift.idxmin() == "attn.k"
    assert lift["mlp.gate"] == pytest.approx(23.37 / (100 * 14_336 / (3 * 14_336 + 10_240)), 1e-3)
    assert modules["own_share"].sum() == pytest.approx(100)


def test_a_lift_is_the_share_over_the_even_share():
    layers = locations.summary(PLACES, "layer").query("train_level == 0 and train_size == 240")
    assert layers["lift"].tolist() == pytest.approx([1.5, 0.5])
    assert layers["share"].tolist() == pytest.approx([75, 25])
    assert (layers["n"] == 2).all() and (layers["spread"] == 0).all()
    modules = locations.summary(PLACES, "module").query("train_level == 1 and train_size == 960")
    assert modules["module"].tolist() == ["mlp.up", "attn.v"]  # the order of Table 10
    assert modules["lift"].tolist() == pytest.approx([0.5, 2.0])


def test_lifts_by_share_stand_beside_table_10():
    lifts = locations.by_share(COUNTED).set_index("module")
    assert list(lifts.columns) == ["top 5%", "top 20%", "Table 10"] and len(lifts) == 7
    assert lifts.loc["attn.v", "top 5%"] == pytest.approx(2)
    assert lifts.loc["attn.k"].isna().tolist() == [True, True, False]


def test_the_extremes_are_told_with_their_lifts():
    said = locations.extremes(locations.by_share(COUNTED), 20)
    assert "Our runs: highest lift attn.v (×2.00), lowest mlp.up (×0.50)." in said
    assert "The paper: highest lift attn.v (×1.33), lowest attn.k (×0.57)." in said
    assert locations.extremes(locations.by_share(COUNTED.iloc[:0]), 20).startswith("The paper")


def test_a_share_that_is_not_counted_is_named():
    with pytest.raises(ConfigError, match=r"frac 0\.3 is not counted .*: use 0\.05, 0\.2"):
        locations.chosen(COUNTED, 30)
    assert locations.chosen(COUNTED.iloc[:0], 30).empty  # nothing was restored: nothing to choose


def test_tables_show_share_and_lift_and_shade_by_the_lift():
    table = locations.table(locations.summary(PLACES, "layer"), "x", "layer")
    cell = '75.00<sub class="detail">0.00</sub><br><span class="change">×1.50</span>'
    assert cell in table.html
    assert "font-weight:bold" in html.shade(locations.LIFT_SHADE)
    theirs = locations.table(locations.summary(locations.published()[1], "module"), "y", "module")
    assert theirs.html.index("mlp.down") < theirs.html.index("attn.k")
    assert "×1.33" in theirs.html and "<sub class" not in theirs.html


@pytest.mark.parametrize("by", ["layer", "module"])
def test_without_restored_runs_there_is_a_table_all_the_same(by):
    empty = locations.summary(locations.chosen(COUNTED.iloc[:0], 20), by)
    assert "Download" in locations.table(empty, "none", by).html


def test_models_stand_side_by_side_where_they_counted_the_share():
    def study(name: str, counted):
        model, profile = SimpleNamespace(title=name), SimpleNamespace(name="quick")
        results = SimpleNamespace(locations=lambda: counted)
        return SimpleNamespace(model=model, profile=profile, results=results)

    without = COUNTED[COUNTED["top_percent"] != 20]
    table = locations.by_model([study("one", COUNTED), study("two", without)], 20)
    assert list(table) == ["module", "Table 10", "one, quick"]
    lifts = locations.by_share(COUNTED)["top 20%"].tolist()
    assert table["one, quick"].tolist() == pytest.approx(lifts, nan_ok=True)
    assert list(locations.by_model([], 20)) == ["module", "Table 10"]
