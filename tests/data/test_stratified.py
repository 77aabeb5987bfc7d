"""Facts drawn by score band: the counts, the probabilities, and the estimate against the truth."""

import numpy as np
import pandas as pd
import pytest

from repro.data import facts, stratified
from repro.errors import ConfigError
from repro.measures import scores

EDGES = (-5.0, -3.0, -2.0, -1.0, -0.4)
DRAWS = 200


def made_up(topics=("P17", "P19", "P20"), each=40, seed=0):
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame({"topic": np.repeat(topics, each)})
    frame["fact_id"] = [f"{topic}-{i:03d}" for i, topic in enumerate(frame["topic"])]
    frame["score"] = generator.uniform(-8, 0, len(frame))
    frame["band"] = stratified.bands(frame["score"], (-4, -1))
    frame["level"] = np.clip(frame["band"] + generator.integers(0, 2, len(frame)), 0, 4)
    return frame


def test_an_edge_belongs_to_the_band_above_it():
    assert stratified.bands([-9, -5, -4.999, -1, 0], (-5, -1)).tolist() == [0, 1, 1, 2, 2]
    assert stratified.bands([-3], ()).tolist() == [0]
    with pytest.raises(ConfigError, match="must rise"):
        stratified.bands([-3], (-1, -5))


def test_a_draw_takes_the_asked_number_of_each_band_balanced_over_topics():
    candidates = made_up()
    drawn = stratified.draw(candidates, (12, 9, 7), seed=3)
    assert drawn.groupby("band").size().tolist() == [12, 9, 7]
    assert drawn[drawn["band"] == 0].groupby("topic").size().tolist() == [4, 4, 4]
    assert drawn["fact_id"].is_monotonic_increasing and drawn["fact_id"].is_unique
    merged = drawn.merge(candidates, on=list(candidates.columns))
    assert len(merged) == len(drawn)


def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_rows():
    candidates = made_up()
    drawn = stratified.draw(candidates, (12, 9, 7), seed=3)
    shuffled = candidates.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(stratified.draw(shuffled, (12, 9, 7), seed=3), drawn)
    other = stratified.draw(candidates, (12, 9, 7), seed=4)
    assert set(other["fact_id"]) != set(drawn["fact_id"])


def test_a_band_that_is_too_small_is_taken_whole():
    candidates = made_up()
    drawn = stratified.draw(candidates, (6, 6, 1000), seed=0)
    assert (drawn["band"] == 2).sum() == (candidates["band"] == 2).sum()


@pytest.mark.parametrize(
    ("counts", "words"), [((5, 9, 7), "score band 0 are too few"), ((9, 9), "2 counts for 3")]
)
def test_counts_that_would_leave_a_topic_out_are_refused(counts, words):
    with pytest.raises(ConfigError, match=words):
        stratified.draw(made_up(), counts, seed=0)


def test_each_fact_is_drawn_as_often_as_its_inclusion_probability_says():
    candidates = made_up(each=12)
    times, draws = dict.fromkeys(candidates["fact_id"], 0), 300
    for seed in range(draws):
        for fact_id in stratified.draw(candidates, (8, 8, 6), seed)["fact_id"]:
            times[fact_id] += 1
    population = dict.fromkeys(candidates["topic"], 24)  # of which every second is a candidate
    drawn = stratified.draw(candidates, (8, 8, 6), 0)
    counted = stratified.cells(drawn, candidates, population)
    places = [counted.topics.index(topic) for topic in drawn["topic"]]
    inclusion = counted.inclusion[places, drawn["band"]]
    for fact_id, probability in zip(drawn["fact_id"], inclusion, strict=True):
        assert abs(times[fact_id] / draws / 2 - probability) < 0.05
    total = (1 / inclusion).sum()
    assert total == pytest.approx(3 * 24)


def test_what_the_drawn_facts_stand_for_is_the_estimate():
    candidates, population = made_up(), {"P17": 80, "P19": 50, "P20": 40}
    drawn = stratified.draw(candidates, (12, 9, 30), seed=1)
    weights = stratified.weights(drawn, candidates, population)
    assert weights.sum() == pytest.approx(sum(population.values()))
    assert len(weights) == len(drawn) and (weights >= 1).all() and weights.max() > 2
    shares = stratified.estimate(drawn, candidates, population)["share"]
    for level, share in enumerate(shares):
        assert np.average(drawn["level"] == level, weights=weights) == pytest.approx(share / 100)


def test_the_estimate_of_all_facts_is_exact():
    candidates = made_up()
    population = candidates["topic"].value_counts().to_dict()
    whole = stratified.estimate(candidates, candidates, population)
    truth = candidates["level"].value_counts(normalize=True).reindex(range(5), fill_value=0)
    assert np.allclose(whole["share"], 100 * truth)
    assert (whole["low"] == whole["share"]).all() and (whole["high"] == whole["share"]).all()
    assert whole["drawn"].sum() == len(candidates)


@pytest.fixture(scope="module")
def atlas_scored():
    """Return the test facts of atlas with their true levels and their scores for micro-m."""
    from repro.inference.cpu import cpu_engine
    from repro.models import loading
    from repro.study.study import open_study

    measured = open_study("micro-m", "full").results.mastery()
    all_facts = facts.load(world="atlas")
    network, tokenizer = loading.load_model("micro-m", device="cpu")
    protocol = scores.ScoreProtocol((0, 3))
    engine = cpu_engine.CpuEngine(network)
    table = scores.measure(engine, tokenizer, all_facts[all_facts["split"] == "test"], protocol)
    table = scores.add_score(table)[["fact_id", "score"]]
    return measured.merge(table, on="fact_id", validate="1:1")


@pytest.mark.parametrize("part", [1.0, 0.5], ids=["all scored", "half scored"])
def test_the_weighted_estimate_covers_the_truth_on_atlas(atlas_scored, part):
    """Where everything is measured: 200 draws, unbiased, with intervals as wide as they say."""
    population = atlas_scored["topic"].value_counts().to_dict()
    levels = atlas_scored["level"].value_counts(normalize=True)
    truth = 100 * levels.reindex(range(5), fill_value=0).to_numpy()
    covered, shares, unweighted = np.zeros(5), [], []
    for seed in range(DRAWS):
        size = "all" if part == 1 else int(part * len(atlas_scored))
        candidates = facts.sample(atlas_scored, size, 1000 + seed)
        candidates["band"] = stratified.bands(candidates["score"], EDGES)
        drawn = stratified.draw(candidates, [60] * 6, seed)
        table = stratified.estimate(drawn, candidates, population)
        covered += (table["low"] <= truth) & (truth <= table["high"])
        shares.append(table["share"])
        unweighted.append(100 * table["drawn"] / table["drawn"].sum())
    spread = np.std(shares, axis=0) / DRAWS**0.5
    assert (abs(np.mean(shares, axis=0) - truth) < 4 * spread).all()
    assert (covered / DRAWS >= 0.9).all() and (covered / DRAWS <= 0.99).all(), covered / DRAWS
    # The drawn counts themselves are far from the truth: level 1 has a third less.
    assert abs(np.mean(unweighted, axis=0) - truth).max() > 1


def test_levels_fill_more_evenly_than_at_random(atlas_scored):
    candidates = atlas_scored.assign(band=stratified.bands(atlas_scored["score"], EDGES))
    counts = [100, 20, 20, 250, 150, 20]
    drawn = stratified.draw(candidates, counts, 0)
    random = facts.sample(candidates, len(drawn), 0)
    least = [frame["level"].value_counts().min() for frame in (drawn, random)]
    assert least[0] > 1.3 * least[1]
