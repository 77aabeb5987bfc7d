"""The invented world: its form, its names, its exposures, and that it is always the same."""

import pytest

from repro import paper
from repro.data import atlas
from repro.data.facts import COLUMNS
from repro.inference.decoding import contains
from repro.paper import SPLITS

SMALL = atlas.Size(train=48, dev=3, test=24, testood=24, reader=4)


@pytest.fixture(scope="module")
def world():
    return atlas.world(SMALL)


def test_form_is_that_of_facts_load():
    facts = atlas.load()
    assert facts.columns.tolist() == COLUMNS
    assert facts["split"].unique().tolist() == list(SPLITS)
    assert facts["fact_id"].is_unique
    for (split, topic), part in facts.groupby(["split", "topic"]):
        assert (paper.TOPICS[topic].domain == "out") == (split == "testood")
        questions = [paper.TOPICS[topic].question.format(subject=s) for s in part["subject"]]
        assert part["question"].tolist() == questions


def test_a_world_depends_on_size_and_seed_alone(world):
    first = atlas.digest(world)
    atlas.world.cache_clear()
    atlas._names.cache_clear()
    assert atlas.digest(atlas.world(SMALL)) == first
    assert atlas.digest(atlas.world(SMALL, seed=1)) != first


def test_splits_have_their_sizes(world):
    sizes = world.groupby(["split", "topic"]).size()
    for split in (*SPLITS, atlas.READER):
        assert set(sizes[split]) == {getattr(SMALL, split)}
    assert len(sizes[atlas.READER]) == len(paper.TOPICS)


def test_every_subject_has_one_fact_and_is_nobodys_answer(world):
    assert world["subject"].is_unique
    assert set(world["subject"]).isdisjoint(world["object"])
    assert {len(subject.split()) for subject in world["subject"]} == {2}


def test_a_match_can_only_mean_the_object():
    objects = {name for topic in paper.TOPICS for name in atlas.pool(topic)}
    words = {word for subject in atlas.world()["subject"] for word in subject.split()}
    texts = [text for t in paper.TOPICS.values() for text in (t.question, *t.mappings)]
    others = [*words, *texts]
    for name in objects:
        assert paper.names(name) == (name,)
        assert not [o for o in objects if o != name and contains(o, (name,))], name
        assert not [text for text in others if contains(text, (name,))], name


def test_objects_are_drawn_unevenly():
    facts = atlas.world()
    for topic, part in facts[facts["split"] == "train"].groupby("topic"):
        share = part["object"].value_counts(normalize=True)
        assert set(share.index) <= set(atlas.pool(topic))
        assert 3 * share.median() < share.max() < 0.2


def test_topics_have_favourites_of_their_own():
    facts = atlas.world()
    cities = [facts[facts["topic"] == t]["object"].mode()[0] for t in ("P19", "P20", "P159")]
    assert len(set(cities)) == 3


def test_exposures_are_spread_alike_over_the_splits(world):
    for split in ("train", "test", "testood"):
        part = world[world["split"] == split]
        for _, topic in part.groupby("topic"):
            rounds = len(topic) // len(atlas.EXPOSURES)
            assert sorted(topic["exposure"]) == sorted(atlas.EXPOSURES * rounds)
    reader = world[world["split"] == atlas.READER]
    assert set(reader["exposure"]) == set(atlas.READER_EXPOSURES)


def test_exposure_is_given_for_every_fact():
    exposure = atlas.exposure()
    assert exposure["fact_id"].tolist() == atlas.load()["fact_id"].tolist()
    assert exposure["exposure"].min() == 0
    assert exposure["exposure"].mean() > exposure["exposure"].median()
