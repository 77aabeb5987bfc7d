"""The published numbers are data we copied: check that the copy is whole and consistent."""

import pytest

from repro import paper
from repro.errors import ConfigError

SHAPES = {
    "distribution": (75, 4),
    "accuracy_1920": (120, 6),
    "concentration": (70, 4),
    "restore": (160, 5),
    "tasks": (8, 5),
    "restore_train": (30, 5),
    "strategies": (10, 3),
    "layers": (32, 2),
    "modules": (7, 2),
    "layer_restore": (40, 3),
}


def restored(split, size, level, percent):
    t = paper.table("restore")
    row = t[
        (t.split == split)
        & (t.train_size == size)
        & (t.train_level == level)
        & (t.restored_percent == percent)
    ]
    return row.accuracy.item()


def test_topics_are_10_in_and_14_out_of_domain():
    domains = [t.domain for t in paper.TOPICS.values()]
    assert domains == ["in"] * 10 + ["out"] * 14
    assert [t.table for t in paper.TOPICS.values()] == list(range(13, 37))
    assert all(key == t.id for key, t in paper.TOPICS.items())


@pytest.mark.parametrize("topic", paper.TOPICS.values(), ids=lambda t: t.id)
def test_every_template_holds_the_subject_once(topic):
    assert len(topic.mappings) == len(set(topic.mappings)) == 21
    for template in (topic.question, *topic.mappings):
        assert template.count("{subject}") == 1
        assert "Ada" in template.format(subject="Ada")


def test_topics_cannot_be_changed():
    with pytest.raises(AttributeError):
        paper.TOPICS["P17"].question = "?"


def test_tables_are_listed_with_the_papers_numbers():
    numbers = [n for printed, _ in paper.TABLES.values() for n in printed]
    assert sorted(numbers) == list(range(1, 12))
    assert all(title for _, title in paper.TABLES.values())


@pytest.mark.parametrize("name", paper.TABLES)
def test_table_is_whole(name):
    frame = paper.table(name)
    assert frame.shape == SHAPES[name]
    assert not frame.isna().any().any()
    keys = [c for c in frame if c not in ("count", "accuracy", "spread")]
    assert not frame.duplicated(keys).any()


def test_table_is_a_copy():
    mine = paper.table("layers")
    mine.loc[0, "percent"] = -1
    assert paper.table("layers").percent.min() > 0


def test_unknown_table_is_named():
    with pytest.raises(ConfigError, match=r"no table 'levels'.*distribution"):
        paper.table("levels")


def test_distribution_sums_to_the_filtered_dataset_for_every_model():
    totals = paper.table("distribution").groupby(["model", "split"])["count"].sum().unstack()
    assert len(totals) == 5
    assert set(totals.train) == {75_944}
    assert set(totals.test) == {9_555}
    assert set(totals.testood) == {11_613}


def test_table_2_means_are_the_means_of_the_five_levels():
    t = paper.table("accuracy_1920").pivot(
        index=["model", "split", "train_level"], columns="test_level", values="accuracy"
    )
    assert len(t) == 20
    computed = t[list("01234")].mean(axis=1)
    assert (computed - t["mean"]).abs().max() < 0.011


def test_concentration_grows_with_the_share_of_parameters():
    t = paper.table("concentration").pivot(
        index=["train_size", "train_level"],
        columns="top_percent",
        values="share_of_change_percent",
    )
    assert (t.diff(axis=1).iloc[:, 1:] > 0).all().all()
    assert t.to_numpy().max() < 100
    assert t[1].min() > 70


def test_gains_quoted_in_section_5_follow_from_table_4():
    assert restored("test", 1920, 0, 20) - restored("test", 1920, 0, 0) == pytest.approx(9.85)
    assert restored("test", 1920, 0, 40) - restored("test", 1920, 0, 0) == pytest.approx(10.48)
    assert restored("test", 1920, 4, 20) - restored("test", 1920, 4, 0) == pytest.approx(3.44)


def test_spread_over_levels_quoted_in_section_3_follows_from_table_2():
    t = paper.table("accuracy_1920")
    t = t[(t.model == "LLaMA-3-8B") & (t.split == "test") & (t.test_level == "mean")]
    by_level = t.set_index("train_level").accuracy
    assert by_level[2] - by_level[0] == pytest.approx(12.06)


def test_restoration_in_table_7_is_the_best_model_of_table_4():
    t = paper.table("strategies").set_index(["strategy", "split"]).accuracy
    best = paper.table("restore").groupby("split").accuracy.max()
    assert t["Parameter Restoration", "test"] == best["test"] == restored("test", 1920, 2, 20)
    assert t["Parameter Restoration", "testood"] == best["testood"]


def test_shares_by_layer_and_module_sum_to_100():
    layers, modules = paper.table("layers"), paper.table("modules")
    assert list(layers.layer) == list(range(32))
    assert layers.percent.sum() == pytest.approx(100, abs=0.05)
    assert modules.percent.sum() == pytest.approx(100, abs=0.05)


def test_layer_restoration_covers_every_layer_in_fours():
    t = paper.table("layer_restore")
    blocks = [f"{first}-{first + 3}" for first in range(0, 32, 4)]
    for _, rows in t.groupby("train_level"):
        assert list(rows.restored_layers) == blocks


def test_names_are_the_synonyms_of_table_12_or_the_object():
    assert len(paper.SYNONYMS) == 29
    assert paper.names("New York City") == ("New York", "New York City")
    assert paper.names("Rio de Janeiro") == ("Rio de", "Rio de Janeiro")
    assert paper.names("Painblanc") == ("Painblanc",)


def test_names_treat_apostrophes_alike():
    straight = paper.names("People's Republic of China")
    assert straight == paper.names("People’s Republic of China")
    assert {"PRC", "China", "People's Republic of China", "People’s Republic of China"} == set(
        straight
    )
    assert paper.names("L'Aquila") == ("L'Aquila", "L’Aquila")
    assert set(paper.names("L’Aquila")) == set(paper.names("L'Aquila"))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Washington University in St.\u00a0Louis", "Washington University in St. Louis"),
        ("Friuli–Venezia Giulia", "Friuli-Venezia Giulia"),
        ("Sorel‐Tracy", "Sorel-Tracy"),
        ("Molokaʻi", "Moloka'i"),
    ],
)
def test_a_name_is_accepted_in_its_plain_spelling_too(name, plain):
    assert paper.names(name)[:2] == (name, plain)


def test_a_name_in_plain_letters_has_no_other_spelling():
    for name in ("Port-au-Prince", "St. Louis", "Zürich"):
        assert paper.names(name) == (name,)
