"""Strategies: which settings compete, how they are chosen, and what is said of those without."""

import made_up
import pytest

from repro.errors import ConfigError, ModelError
from repro.models import registry, weights
from repro.report import strategies
from repro.statistics import summary
from repro.study import open_study

ACCURACY = made_up.accuracy(percents=(0, 5, 20))


class Measured(made_up.Strategies):
    """A study with every strategy but LoRA and an instruct model."""

    model = registry.entries()["llama-2-7b"]
    profile = type("Named", (), {"name": "x"})

    def accuracy(self):
        return ACCURACY

    def mixed(self):
        rows = made_up.accuracy(levels=(0,), sizes=((60, "60"), (960, "960")), seed=5)
        return summary.tuned(rows).assign(train_level=-2)


MEANS = strategies.gather(Measured())
FOUND = strategies.best(MEANS)


def row(split, chosen_on, strategy):
    at = (FOUND["split"] == split) & (FOUND["chosen_on"] == chosen_on)
    return FOUND[at & (FOUND["strategy"] == strategy)].iloc[0]


def test_divided_and_restored_are_the_same_runs_before_and_after():
    settings = FOUND.drop_duplicates("strategy").set_index("strategy")["settings"]
    assert settings.to_dict() == {"SFT (Mixed)": 2, "SFT (Divided)": 9, "Parameter Restoration": 18}


def test_the_papers_way_takes_the_best_of_the_reported_split():
    for split in strategies.REPORTED:
        of_strategy = MEANS[(MEANS["split"] == split) & (MEANS["strategy"] == strategies.RESTORED)]
        best = row(split, strategies.OWN, strategies.RESTORED)
        assert best["accuracy"] == of_strategy["accuracy"].max()
        assert "restored" in best["setting"] and "level" in best["setting"]


def test_the_fair_way_looks_at_dev_alone():
    of_strategy = MEANS[MEANS["strategy"] == strategies.RESTORED]
    dev = of_strategy[of_strategy["split"] == "dev"]
    best = dev.loc[dev["accuracy"].idxmax(), strategies.SETTING]
    there = (of_strategy[strategies.SETTING] == best).all(axis=1) & (of_strategy["split"] == "test")
    assert (
        row("test", "dev", strategies.RESTORED)["accuracy"]
        == of_strategy.loc[there, "accuracy"].item()
    )
    worse = MEANS.assign(accuracy=MEANS["accuracy"].where(MEANS["split"] == "dev", 0))
    again = strategies.best(worse)
    assert again[again["chosen_on"] == "dev"]["setting"].tolist() == (
        FOUND[FOUND["chosen_on"] == "dev"]["setting"].tolist()
    )


def test_choosing_on_what_is_reported_never_looks_worse():
    luck = strategies.luck(FOUND)
    assert len(luck) == 6 and (luck["points"] >= 0).all() and luck["points"].max() > 0


def test_restoration_is_set_against_each_of_the_others():
    lead = strategies.leads(FOUND)
    assert len(lead) == 2 * 2 * 2
    lead_over_mixed = lead.query(
        "split == 'test' and chosen_on == 'dev' and strategy == 'SFT (Mixed)'"
    ).iloc[0]
    there = [row("test", "dev", name)["accuracy"] for name in (strategies.RESTORED, "SFT (Mixed)")]
    assert lead_over_mixed["estimate"] == pytest.approx(there[0] - there[1])
    assert lead_over_mixed["low"] < lead_over_mixed["estimate"] < lead_over_mixed["high"]
    assert "of 4 comparisons" in strategies.sentence(lead, "dev")
    assert "nothing to compare" in strategies.sentence(lead.iloc[:0], "dev")


def test_the_table_has_both_choices_and_the_papers():
    html = strategies.table(FOUND, "x").html
    assert html.count(">chosen on dev<") == html.count(">chosen on itself<") == 2
    assert "62.21" in html and "57.10" in html and "% restored" in html
    places = [html.index(f">{name}<") for name in strategies.ORDER]
    assert places == sorted(places)


def test_a_row_that_is_absent_has_its_reason():
    said = strategies.absent(Measured(), MEANS)
    assert "Instruct: the registry names none for LLaMA-2-7B" in said
    assert "LoRA: the profile `x` has no such runs" in said
    named = Measured()
    named.model = registry.entries()["llama-3-8b"]
    assert "Instruct: the profile `x` has no such runs" in strategies.absent(named, MEANS)
    micro, smol = Measured(), Measured()
    micro.model, smol.model = registry.entries()["micro-m"], registry.entries()["smollm2-135m"]
    assert "nobody has made one" in strategies.absent(micro, MEANS)
    assert "such a variant themselves" in strategies.absent(smol, MEANS)


def test_without_any_runs_there_is_the_papers_column_alone():
    nothing = Measured()
    nothing.accuracy, nothing.mixed_runs = (lambda: ACCURACY.iloc[:0]), list
    best = strategies.best(strategies.gather(nothing))
    assert best.empty and "62.21" in strategies.table(best, "x").html
    assert strategies.leads(best).empty and strategies.luck(best).empty


def test_an_instruct_model_that_is_missing_is_named(tiny_model, tmp_path):
    opened = open_study(tiny_model, "smoke")
    assert strategies.instruct(opened, "default") is opened
    assert strategies.instruct(opened, "none").model.instruct == ""
    with pytest.raises(ConfigError, match="unknown model 'nowhere'"):
        strategies.instruct(opened, "nowhere")
    with pytest.raises(ConfigError, match="is the studied model"):
        strategies.instruct(opened, str(tiny_model))
    (tmp_path / "empty").mkdir()
    missing = strategies.instruct(opened, str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="empty"):
        weights.weights_id(registry.entry(missing.model.instruct))


def test_the_registrys_instruct_models_exist():
    for entry in registry.entries().values():
        assert not entry.instruct or entry.instruct in registry.entries()
