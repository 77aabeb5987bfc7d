"""A whole smoke study on the tiny model: records, keys, frames, and nothing computed twice."""

import json
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from repro import provenance
from repro.data import facts
from repro.errors import ConfigError, ModelError, StoreError
from repro.models import loading, registry, weights
from repro.report import divergence
from repro.restoration import restore
from repro.study import open_study, profiles, records, requests, results
from repro.training.recipe import Adapter, Recipe

RATE = 1e-3
ACCURACY = {
    *("model", "train_level", "train_size", "size_label", "sample", "restored_percent"),
    *("split", "topic", "test_level", "correct", "total"),
}
RUN = ["train_level", "train_size", "sample"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return the cache that this module's study is computed in."""
    folder = tmp_path_factory.mktemp("study") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(folder))
        patch.setenv("REPRO_RESULTS", str(folder.parent / "results"))
        yield folder


@pytest.fixture(scope="module")
def opened(cache, tiny_model, tiny_facts_folder):
    return open_study(tiny_model, "smoke", tiny_facts_folder, learning_rate=RATE)


@pytest.fixture(scope="module")
def computed(opened):
    assert opened.run() > 0
    return opened


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Return an empty cache in place of the module's."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "nothing"))
    return tmp_path / "elsewhere"


@pytest.fixture
def no_model(monkeypatch):
    """Fail as soon as this package loads a model."""

    def load_model(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "load_model", load_model)


def fresh(done, **changes):
    """Return the same study as if opened anew, with nothing remembered, or with changes."""
    return replace(done, **changes)


def file_stamps(folder):
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def key(task):
    return provenance.key(task.kind, task.params)


def keys(opened):
    return {key(task) for task in opened.all_requests()}


# --- records ----------------------------------------------------------------------------------


def test_every_task_has_its_record(computed):
    tasks = computed.all_requests()
    assert len({key(task) for task in tasks}) == len(tasks)
    assert requests.missing(tasks) == []
    assert {task.kind for task in tasks} == {
        *("mastery", "finetune", "accuracy", "divergence", "concentration", "where")
    }


def test_a_record_says_what_it_is_and_where_it_comes_from(computed):
    for task in computed.all_requests():
        record = task.record()
        assert record.params == task.params
        assert record.provenance["model"] == computed.model.name
        assert record.provenance["profile"] == "smoke"
        assert record.provenance["wall_seconds"] >= 0
        assert record.params["weights"] == weights.weights_id(computed.model)
        assert record.params["data"] == facts.data_hash(computed.data)
        assert record.params["seed"] == 0


def test_a_second_start_computes_nothing_and_loads_no_model(computed, cache, no_model):
    before = file_stamps(cache)
    again = fresh(computed)
    assert again.run() == 0
    frames = again.results
    for frame in (
        *(frames.distribution(), frames.mastery(), frames.accuracy(), frames.divergence()),
        *(frames.concentration(), frames.losses(), again.records(), frames.controls()),
        *(frames.layers(), frames.locations(), frames.answers()),
    ):
        assert len(frame)
    assert file_stamps(cache) == before


def test_what_is_missing_does_load_the_model(computed, no_model):
    with pytest.raises(AssertionError, match="a model was loaded"):
        fresh(computed, seed=1).run()


def test_only_what_is_missing_is_computed(computed, cache):
    before = file_stamps(cache)
    gone = [path for path in before if path.parent.name in ("divergence", "concentration")][:2]
    old = {path: path.read_text() for path in gone}
    for path in gone:
        path.unlink()
    assert fresh(computed).run() == len(gone) == 2
    after = file_stamps(cache)
    assert {p: after[p] for p in before if p not in gone} == {
        p: before[p] for p in before if p not in gone
    }
    for path in gone:
        new, was = (json.loads(text) for text in (path.read_text(), old[path]))
        assert new["result"] == was["result"]


def timeless(result):
    return {name: value for name, value in result.items() if name != "seconds"}


def test_two_studies_with_one_seed_are_equal(computed, cache, elsewhere, monkeypatch):
    second = fresh(computed)
    computed_records = second.run()
    theirs = {key(t): t.record() for t in second.all_requests()}
    # Nothing else is left behind: no temporary file, no partial block, no record unasked for.
    names = [f"{name}.json" for name in theirs] + [f"{key(second.requests.mastery())}.csv"]
    assert sorted(p.name for p in elsewhere.rglob("*") if p.is_file()) == sorted(names)
    assert computed_records == len(theirs)
    table = records.load_table(second.requests.mastery().record())
    monkeypatch.setenv("REPRO_CACHE", str(cache))
    ours = {key(t): t.record() for t in computed.all_requests()}
    assert ours.keys() == theirs.keys()
    for name, record in ours.items():
        assert timeless(record.result) == timeless(theirs[name].result)
    pd.testing.assert_frame_equal(records.load_table(computed.requests.mastery().record()), table)


# --- keys -------------------------------------------------------------------------------------


def test_the_learning_rate_changes_all_but_mastery_and_the_untuned_model(computed):
    other = fresh(computed, model=replace(computed.model, learning_rate=2 * RATE))
    assert key(other.requests.mastery()) == key(computed.requests.mastery())
    common = keys(computed) & keys(other)
    assert common == {key(t) for t in computed.all_requests() if t.run is None}


def test_a_profile_may_have_a_learning_rate_of_its_own(monkeypatch):
    entry = replace(registry.entry("micro-s"), learning_rates={"real": 2e-5})
    monkeypatch.setattr(registry, "entry", lambda name: entry)
    assert open_study("micro-s", "real").model.learning_rate == 2e-5
    assert open_study("micro-s", "quick").model.learning_rate == entry.learning_rate
    assert open_study("micro-s", "real", learning_rate=RATE).model.learning_rate == RATE


def test_seed_weights_and_data_change_every_key(computed, tiny_data, tmp_path):
    key_of_study = key(computed.requests.mastery())
    path = tiny_data / "train" / "P17.train.json"
    path.write_text(path.read_text().replace("Arvenia", "Arvonia"))
    other_weights = replace(computed.model, folder=copy_of(computed.model.folder, tmp_path))
    others = [
        fresh(computed, seed=1),
        fresh(computed, data=tiny_data),
        fresh(computed, model=other_weights),
    ]
    assert len({key_of_study, *(key(other.requests.mastery()) for other in others)}) == 4
    # A key holds its parent's key, so what changes mastery changes all that follows from it.
    assumed = {0: 36}
    follows = [keys(replace(s, assumed=assumed)) for s in (computed, *others)]
    assert sum(map(len, follows)) == len(set().union(*follows))


def copy_of(folder, where):
    (where / "model").mkdir()
    for path in folder.iterdir():
        (where / "model" / path.name).write_bytes(path.read_bytes())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (where / "model" / "model.safetensors").write_bytes(weights)
    return where / "model"


@pytest.mark.parametrize(
    "change",
    [
        {"templates": 20},
        {"draws": 2},
        {"max_new_tokens": 5},
        {"facts": {"train": 36, "dev": 12, "test": 24, "testood": 11}},
    ],
)
def test_what_mastery_depends_on_changes_its_key(computed, change):
    other = fresh(computed, profile=replace(computed.profile, **change))
    assert key(other.requests.mastery()) != key(computed.requests.mastery())


def test_what_a_profile_is_called_changes_no_key(computed):
    renamed = replace(computed.profile, name="other", about="words")
    assert keys(fresh(computed, profile=renamed)) == keys(computed)


def test_a_recipe_is_in_the_key_with_every_field(computed):
    params = computed.requests.finetune(computed.grid.runs()[0]).params
    assert set(params["recipe"]) == {field.name for field in fields(Recipe)}
    assert params["recipe"]["learning_rate"] == RATE


def test_runs_differ_by_level_size_and_sample(computed):
    with_three_samples = fresh(computed, profile=replace(computed.profile, samples=3))
    tasks = [with_three_samples.requests.finetune(run) for run in with_three_samples.grid.runs()]
    assert len({key(task) for task in tasks}) == len(tasks) == 3 * len(computed.grid.runs())
    assert len({task.params["recipe"]["seed"] for task in tasks}) == 3


# --- frames -----------------------------------------------------------------------------------


def test_mastery_frame(computed):
    frame = computed.results.mastery()
    hits = [f"t{i:02d}" for i in range(21)]
    assert list(frame) == [
        *("fact_id", "topic", "split", "hits", "trials", "rate", "level"),
        *hits,
    ]
    assert frame["split"].value_counts().to_dict() == computed.profile.facts
    assert (frame["hits"] == frame[hits].sum(axis=1)).all()
    assert (frame["level"] == np.ceil(4 * frame["hits"] / 21)).all()
    assert frame["level"].nunique() > 1  # the tiny model knows some facts and not others


def test_distribution_has_every_level_of_every_split(computed):
    frame = computed.results.distribution()
    assert list(frame) == ["model", "split", "level", "count"]
    assert len(frame) == 4 * 5
    assert set(frame["level"]) == {0, 1, 2, 3, 4}
    assert frame.groupby("split")["count"].sum().to_dict() == computed.profile.facts
    counted = computed.results.mastery().groupby(["split", "level"]).size()
    nonzero = frame[frame["count"] > 0].set_index(["split", "level"])["count"]
    assert nonzero.sort_index().to_dict() == counted.to_dict()
    assert (frame["count"] == 0).any()


def test_accuracy_frame_counts_every_question_once(computed):
    frame = computed.results.accuracy()
    assert set(frame) >= ACCURACY
    assert set(frame["split"]) == {"train", "dev", "test", "testood"}
    totals = frame.groupby([*RUN, "restored_percent", "split"])["total"].sum().reset_index()
    for row in totals.itertuples():
        questions = row.train_size if row.split == "train" else computed.profile.facts[row.split]
        assert row.total == questions
    assert not frame.duplicated([*RUN, "restored_percent", "split", "topic", "test_level"]).any()
    assert ((frame["correct"] >= 0) & (frame["correct"] <= frame["total"])).all()


def test_levels_and_topics_without_facts_are_absent(computed):
    frame = computed.results.accuracy()
    assert (frame["total"] > 0).all()
    table = computed.results.mastery()
    sizes = table.groupby(["split", "topic", "level"]).size()
    totals = frame[frame["split"] != "train"].groupby(["split", "topic", "test_level"])["total"]
    assert totals.first().to_dict() == sizes[sizes.index.isin(totals.first().index)].to_dict()
    assert len(totals.first()) == len(sizes.drop("train", level="split"))


def test_base_model_is_in_the_frame(computed):
    frame = computed.results.accuracy()
    base = frame[frame["train_level"] == -1]
    assert set(base["split"]) == {"dev", "test", "testood"}
    assert set(base["train_size"]) == set(base["sample"]) == {0}
    assert set(base["restored_percent"]) == {0.0}


def pools(computed):
    table = computed.results.mastery()
    return table[table["split"] == "train"]["level"].value_counts().to_dict()


def test_runs_that_cannot_exist_are_absent(computed):
    sizes = pools(computed)
    possible = {(v, n) for v, have in sizes.items() for n in (6, 12) if n <= have}
    assert 0 < len(possible) < 5 * 2  # some cannot exist: else this test shows nothing
    frame = computed.results.accuracy()
    runs = frame.loc[frame["train_level"] >= 0, ["train_level", "train_size"]]
    assert set(runs.itertuples(index=False, name=None)) == possible
    for frame_of_runs in (computed.results.divergence(), computed.results.losses()):
        assert set(frame_of_runs[RUN[:2]].itertuples(index=False, name=None)) == possible
    restored = frame.loc[frame["restored_percent"] > 0, RUN[:2]]
    assert set(restored.itertuples(index=False, name=None)) == {p for p in possible if p[1] == 12}


def test_training_facts_are_of_the_runs_level_only(computed):
    frame = computed.results.accuracy()
    trained = frame[frame["split"] == "train"]
    assert len(trained)
    assert (trained["test_level"] == trained["train_level"]).all()


def test_divergence_frame(computed):
    frame = computed.results.divergence()
    assert set(frame) >= {"model", *RUN, "test_level", "topic", "facts", "kl_sum"}
    assert (frame["facts"] > 0).all()
    assert (frame["kl_sum"] > 0).all()  # fine-tuning at this rate moves every first token
    assert np.isfinite(frame["kl_sum"]).all()
    level = computed.compared_level()
    assert set(frame["test_level"]) == {level}
    table = computed.results.mastery()
    there = table[(table["split"] == "test") & (table["level"] == level)]
    assert frame.groupby(RUN)["facts"].sum().max() <= len(there)


def test_logits_example_agrees_with_itself(computed):
    example = divergence.example(computed)
    tuned, base = np.array(example["tuned_logits"]), np.array(example["base_logits"])
    p, q = (np.exp(x) / np.exp(x).sum() for x in (tuned, base))
    assert len(example["tokens"]) == 10
    assert list(tuned) == sorted(tuned, reverse=True)
    assert example["p"] == pytest.approx(p)
    assert example["q"] == pytest.approx(q)
    assert example["kl"] == pytest.approx((p * np.log(p / q)).sum())
    assert example["question"].endswith("?")
    assert {"answer", "template_prompt"} <= set(example)


def parameters_in_region(folder):
    held = load_file(folder / "model.safetensors")
    return sum(t.numel() for name, t in held.items() if "layers" in name and "norm" not in name)


def test_concentration_frame(computed):
    frame = computed.results.concentration()
    assert set(frame) >= {
        *("model", *RUN, "top_percent", "share_of_change_percent", "k", "n", "threshold"),
        *("moved", "zero_base", "unchanged"),
    }
    n = parameters_in_region(computed.model.folder)
    assert set(frame["n"]) == {n}
    for row in frame.itertuples():
        assert row.k == Fraction(row.top_percent) * n // 100
        assert row.share_of_change_percent > row.top_percent  # the most changed hold more
    for _, run in frame.groupby(RUN):
        assert run.sort_values("top_percent")["share_of_change_percent"].is_monotonic_increasing


def test_losses_and_records_frames(computed):
    losses = computed.results.losses()
    assert set(losses) >= {"step", "loss", *RUN}
    steps = losses.groupby(RUN).size().reset_index(name="steps")
    assert (steps["steps"] == np.ceil(steps["train_size"] / 8)).all()
    traced = computed.records()
    assert len(traced) == len(computed.all_requests())
    assert set(traced) >= {
        *("kind", "key", "wall_seconds", "date", "git_commit", "device", "dtype", "versions"),
        *("weights", "data", "seed", "profile"),
    }


def test_a_study_without_rates_has_an_empty_frame_of_the_same_columns(computed):
    frame = computed.results.learning_rates()
    assert frame.empty
    assert set(frame) >= {"learning_rate", "sample", "split", "topic", "test_level", "correct"}


# --- other sizes ------------------------------------------------------------------------------


def test_learning_rates_are_compared_on_the_dev_split(computed, cache):
    sizes = {"rates": (1e-4, 1e-3), "rate_size": 12, "sizes": (), "percents": ()}
    study = fresh(computed, profile=replace(computed.profile, **sizes))
    frame = study.results.learning_rates()
    assert set(frame["learning_rate"]) == {1e-4, 1e-3}
    assert set(frame["split"]) == {"dev"}
    assert set(frame["train_level"]) == {requests.MIXED}
    assert (frame.groupby("learning_rate")["total"].sum() == 12).all()
    assert set(study.results.accuracy()["train_level"]) == {
        -1
    }  # the comparison stays out of the tables


def test_all_facts_of_a_level_are_a_size(computed):
    level, have = min(pools(computed).items(), key=lambda item: item[1])
    sizes = {"sizes": ("all",), "percents": (), "restore_sizes": ()}
    study = fresh(computed, profile=replace(computed.profile, **sizes))
    assert {run.level for run in study.grid.runs()} == set(pools(computed))
    run = next(run for run in study.grid.runs() if run.level == level)
    study.compute([study.requests.finetune(run), study.requests.accuracy(run, "train")])
    assert study.requests.accuracy(run, "train").record().result["total"] == have
    columns = results.run_columns(study, run)
    assert columns["train_size"] == have
    assert columns["size_label"] == "All"


def test_more_facts_than_there_are(computed, elsewhere):
    quick = fresh(computed, profile=profiles.profile("quick"))
    with pytest.raises(ConfigError, match="facts were asked for, but there are 36") as error:
        quick.run()
    assert "\n" not in str(error.value)
    assert not list(elsewhere.rglob("*"))


# --- restoration ------------------------------------------------------------------------------


def restored(computed, percent):
    return computed.results.accuracy(results.restoration_requests(computed, percent))


def test_one_more_share_is_computed_and_restores_exactly_its_floor(computed):
    frame = restored(computed, 33.3)
    assert set(frame) >= ACCURACY
    assert set(frame["restored_percent"]) == {33.3}
    assert set(frame["split"]) == {"dev", "test", "testood", "train"}
    n = parameters_in_region(computed.model.folder)
    for run in computed.grid.restored_runs():
        record = computed.requests.accuracy(run, "test", 33.3).record()
        assert record.result["restored"] == Fraction("33.3") * n // 100
        assert record.result["restored"] == restore.how_many(n, 33.3)


def test_a_share_already_restored_is_read(computed, no_model):
    frame = restored(computed, 20)
    whole = computed.results.accuracy()
    same = whole[whole["restored_percent"] == 20]
    order = [*RUN, "split", "topic", "test_level"]
    pd.testing.assert_frame_equal(
        frame.sort_values(order, ignore_index=True), same.sort_values(order, ignore_index=True)
    )


def test_restoring_nothing_is_the_fine_tuned_model(computed):
    for run in computed.grid.restored_runs():
        plain = computed.requests.accuracy(run, "test")
        assert key(computed.requests.accuracy(run, "test", 0)) == key(plain)
    tiny_share = restored(computed, 1e-4)  # rounds down to no parameter, but is run as a share
    assert restore.how_many(parameters_in_region(computed.model.folder), 1e-4) == 0
    none = restored(computed, 0)
    columns = [*RUN, "split", "topic", "test_level", "correct", "total"]
    pd.testing.assert_frame_equal(tiny_share[columns], none[columns])


@pytest.mark.parametrize("percent", [-0.1, 100.1, float("nan"), float("inf")])
def test_an_impossible_share_is_refused(computed, percent, no_model):
    with pytest.raises(ConfigError, match="from 0 to 100"):
        restored(computed, percent)


# --- controls, layers, where, answers -----------------------------------------------------------


def test_controls_choose_as_many_parameters_by_other_rules(computed):
    frame = computed.results.controls()
    assert set(frame) >= ACCURACY | {"strategy", "restored", "undone_l1", "undone_l2"}
    assert set(frame["split"]) == {"test"}
    n = parameters_in_region(computed.model.folder)
    for _, run in frame.groupby(RUN):
        rows = run.drop_duplicates("strategy").set_index("strategy")
        assert set(rows.index) == {"none", "top", "bottom", "random", "absolute", "interpolate"}
        assert rows.loc["none", ["restored", "undone_l1", "undone_l2"]].tolist() == [0, 0, 0]
        chosen = rows.loc[["top", "bottom", "random", "absolute"]]
        assert set(chosen["restored"]) == {restore.how_many(n, 20)}
        assert rows.loc["interpolate", "restored"] == n
        # Of as many, those that moved furthest undo the most; interpolation its share of each.
        assert chosen["undone_l1"].idxmax() == chosen["undone_l2"].idxmax() == "absolute"
        assert rows.loc["random", "undone_l1"] == pytest.approx(20, abs=2)
        assert rows.loc["interpolate", "undone_l1"] == pytest.approx(20, abs=1e-3)
        assert rows.loc["interpolate", "undone_l2"] == pytest.approx(36, abs=1e-3)


def test_controls_and_layers_are_no_part_of_the_papers_tables(computed):
    frame = computed.results.accuracy()
    others = {
        key(t) for run in computed.grid.control_runs() for t in computed.requests.controls(run)
    }
    others |= {key(t) for run in computed.grid.layer_runs() for t in computed.requests.layers(run)}
    assert others and others <= keys(computed)
    assert not frame.duplicated([*RUN, "restored_percent", "split", "topic", "test_level"]).any()
    assert set(frame["restored_percent"]) == {0.0, *computed.profile.percents}


def test_random_parameters_differ_between_samples(computed):
    run = computed.grid.control_runs()[0]
    seeds = [
        computed.requests.accuracy(replace(run, sample=n), "test", 20, "random").params["restore"]
        for n in (0, 1)
    ]
    assert [settings["seed"] for settings in seeds] == [0, 1]
    assert "seed" not in computed.requests.accuracy(run, "test", 20).params["restore"]


def test_layers_are_restored_block_by_block(computed):
    frame = computed.results.layers()
    assert set(frame["layers"]) == {"none", "0", "1"}
    assert set(frame["split"]) == {"test", "testood"}
    n = parameters_in_region(computed.model.folder)
    for _, run in frame.groupby([*RUN, "split"]):
        rows = run.drop_duplicates("layers").set_index("layers")
        assert rows["restored"].to_dict() == {"none": 0, "0": n / 2, "1": n / 2}
        assert rows["undone_l1"].sum() == pytest.approx(100)
        assert rows["undone_l2"].sum() == pytest.approx(100)


@pytest.mark.parametrize(
    ("layers", "blocks", "expected"),
    [
        (32, 8, ["0-3", "4-7", "8-11", "12-15", "16-19", "20-23", "24-27", "28-31"]),  # Table 11
        (4, 8, ["0", "1", "2", "3"]),
        (18, 4, ["0-4", "5-9", "10-13", "14-17"]),
        (18, 0, []),
    ],
)
def test_blocks_of_layers_are_about_as_large(computed, layers, blocks, expected):
    model = replace(computed.model, layers=layers)
    study = fresh(computed, model=model, profile=replace(computed.profile, layer_blocks=blocks))
    assert study.requests.layer_groups() == expected


def test_strategies_are_runs_of_all_levels_with_records_of_their_own(computed):
    mixed, adapted = (
        computed.results.strategy(runs)
        for runs in (computed.grid.mixed_runs(), computed.grid.lora_runs())
    )
    assert set(mixed["train_size"]) == {6, 12} and set(adapted["train_size"]) == {12}
    for frame in (mixed, adapted):
        assert set(frame["split"]) == {"dev", "test", "testood"}
        assert set(frame["train_level"]) == {requests.MIXED}
    assert not set(mixed["run"]) & set(adapted["run"])
    assert requests.MIXED not in set(computed.results.accuracy()["train_level"])
    first, second = computed.grid.mixed_runs()[-1], computed.grid.lora_runs()[-1]
    assert computed.pools.facts(first, "train").equals(computed.pools.facts(second, "train"))
    assert "lora" not in computed.requests.finetune(first).params  # records of old keep their key
    settings = computed.requests.finetune(second).params["lora"]
    assert set(settings) == {field.name for field in fields(Adapter)}
    assert settings["rank"] == computed.profile.lora_rank


def test_a_profile_with_adapters_of_rank_0_is_refused(computed):
    study = fresh(computed, profile=replace(computed.profile, lora_rank=0))
    with pytest.raises(ConfigError, match="rank of at least 1, not 0"):
        study.all_requests()


def test_an_instruct_model_answers_the_same_questions(computed):
    assert computed.model.instruct == "" and computed.results.instruct().empty
    own_folder = str(computed.model.folder)
    same = replace(computed, model=replace(computed.model, instruct=own_folder))
    columns = ["split", "topic", "test_level", "correct", "total"]
    base = computed.results.accuracy().query("train_level == -1")
    answered = same.results.instruct()[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(answered, base[columns].reset_index(drop=True))


def test_where_adds_up_to_the_shares(computed):
    frame = computed.results.locations()
    n = parameters_in_region(computed.model.folder)
    shares = [p for p in computed.profile.percents if p]
    assert set(frame["top_percent"]) == set(shares)
    assert len(frame) == len(computed.grid.restored_runs()) * 2 * 7 * len(shares)
    for (*_, percent), rows in frame.groupby([*RUN, "top_percent"]):
        assert rows["n"].sum() == n
        assert rows["k"].sum() == restore.how_many(n, percent)
        assert rows["change_percent"].sum() == pytest.approx(100)
    assert (frame["k"] <= frame["n"]).all()


def test_answers_add_up_to_the_counts(computed):
    answers = computed.results.answers()
    counts = computed.results.accuracy()
    by = [*RUN, "restored_percent", "split"]
    assert len(answers) == len(counts.groupby(by))
    totals = counts.groupby([*by, "test_level"])[["correct", "total"]].sum()
    for row in answers.itertuples():
        where = (*(getattr(row, name) for name in by),)
        for level in np.unique(row.strata):
            in_level = row.strata == level
            expected = totals.loc[(*where, level)]
            assert row.values[in_level].sum() == expected["correct"]
            assert row.sizes[in_level].sum() == expected["total"]


def test_a_record_without_answers_is_read(computed, cache):
    """Records made before answers were kept hold the counts."""
    task = computed.requests.accuracy(computed.grid.control_runs()[0], "test", 20)
    before, path = computed.results.controls(), cache / "records" / "accuracy" / f"{key(task)}.json"
    text = path.read_text()
    record = json.loads(text)
    counts = computed.results.accuracy([task])[["topic", "test_level", "correct", "total"]]
    record["result"] = {"restored": 1, "counts": counts.to_dict("records"), "tokens": 1}
    del record["digest"]  # which records made then have not
    path.write_text(json.dumps(record))
    after = fresh(computed).results.controls()
    path.write_text(text)
    columns = [*sorted(ACCURACY), "strategy"]
    pd.testing.assert_frame_equal(after[columns], before[columns])
    old = (after["strategy"] == "top") & (after["train_level"] == task.run.level)
    assert after[old]["undone_l1"].isna().all() and old.any()


# --- opening and export -----------------------------------------------------------------------


def test_opening_computes_nothing_and_names_what_is_wrong(
    tiny_model, tiny_facts_folder, elsewhere, no_model
):
    assert open_study(tiny_model, "smoke", tiny_facts_folder).profile.name == "smoke"
    with pytest.raises(ConfigError, match="unknown profile 'huge'"):
        open_study(tiny_model, "huge")
    with pytest.raises(ConfigError, match="unknown model 'nonsense'"):
        open_study("nonsense", "smoke")
    for rate in (0, -1e-4, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"learning rate .* is not a positive number"):
            open_study(tiny_model, "smoke", learning_rate=rate)
    assert not elsewhere.exists()


def test_the_environment_names_model_and_profile(tiny_model, monkeypatch):
    monkeypatch.setenv("REPRO_MODEL", str(tiny_model))
    monkeypatch.setenv("REPRO_PROFILE", "smoke")
    opened = open_study()
    assert (opened.model.folder, opened.profile.name) == (tiny_model, "smoke")


def test_looking_at_a_study_that_was_never_run_computes_nothing(
    tiny_model, tiny_facts_folder, elsewhere, no_model
):
    opened = open_study(tiny_model, "smoke", tiny_facts_folder)
    assert opened.records().empty
    with pytest.raises(StoreError, match=r"nothing to export: run tiny-llama smoke first"):
        opened.export()
    assert not elsewhere.exists()


def some_frames(opened):
    frames = opened.results
    return [frames.mastery(), frames.accuracy(), frames.divergence(), frames.losses()]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_exported_study_needs_no_cache(computed, elsewhere, cache, monkeypatch, no_model):
    results = elsewhere.parent / "results"
    monkeypatch.setenv("REPRO_CACHE", str(cache))
    written = computed.export(results)
    assert sorted(written) == sorted(p for p in results.rglob("*") if p.is_file())
    assert {p.parent for p in written} == {results / computed.model.name / "smoke"}
    frames = some_frames(computed)

    monkeypatch.setenv("REPRO_CACHE", str(elsewhere))
    monkeypatch.setenv("REPRO_RESULTS", str(results))
    again = fresh(computed)
    assert again.run() == 0
    for ours, theirs in zip(frames, some_frames(again), strict=True):
        pd.testing.assert_frame_equal(ours, theirs)
    assert divergence.example(again) == divergence.example(computed)
    first = contents(results)
    again.export()
    assert contents(results) == first
    assert not elsewhere.exists()


def test_weights_that_break_are_named(tiny_model, tiny_facts_folder, elsewhere):
    broken = open_study(tiny_model, "smoke", tiny_facts_folder, learning_rate=1e9)
    with pytest.raises(ModelError, match=r"NaN.* too large a learning rate") as error:
        broken.run()
    assert "\n" not in str(error.value)
