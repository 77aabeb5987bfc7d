"""Paired intervals: they cover the truth, use the pairing, and say where they cannot be had."""

import numpy as np
import pandas as pd
import pytest

from repro.statistics import bootstrap

LEVELS = np.repeat([0, 1, 2], 60)
ONE = np.ones(len(LEVELS))


def made(generator, samples, question=0.0, sample=0.0, question_in_sample=0.0):
    """Differences of true mean 0 whose three sources of chance have these deviations."""
    return (
        generator.normal(0, question, len(LEVELS))
        + generator.normal(0, sample, (samples, 1))
        + generator.normal(0, question_in_sample, (samples, len(LEVELS)))
    )


@pytest.mark.parametrize(
    "samples, question, sample, question_in_sample, lowest, highest",
    [
        (5, 1.0, 0.0, 0.0, 0.90, 0.99),  # chance lies in the questions
        (5, 0.0, 0.1, 0.0, 0.90, 0.99),  # … in the five data samples
        (5, 1.0, 0.1, 1.0, 0.90, 1.00),  # … in everything
        (1, 1.0, 0.0, 0.0, 0.90, 0.99),  # … of a single sample
    ],
)
def test_the_interval_covers_the_truth(
    samples, question, sample, question_in_sample, lowest, highest
):
    generator, inside = np.random.default_rng(3), 0
    for _ in range(200):
        values = made(generator, samples, question, sample, question_in_sample)
        _, low, high = bootstrap.interval([values], ONE, LEVELS)
        inside += low <= 0 <= high
    assert lowest <= inside / 200 <= highest


def test_five_samples_are_not_five_times_the_questions():
    hits = np.random.default_rng(4).binomial(1, 0.5, len(LEVELS)).astype(float)
    widths = []
    for samples in (1, 5):
        _, low, high = bootstrap.interval([np.tile(hits, (samples, 1))], ONE, LEVELS)
        widths.append(high - low)
    assert widths[0] == pytest.approx(widths[1])


def test_spread_between_samples_enters():
    hits = np.zeros((5, len(LEVELS)))
    hits[:, :30] = 1
    shifted = hits.copy()
    shifted[0, 30:50] = shifted[1, :20] = 0.5
    narrow, wide = (bootstrap.interval([v], ONE, LEVELS) for v in (hits, shifted))
    assert wide[2] - wide[1] > 1.05 * (narrow[2] - narrow[1])


def test_the_estimate_is_the_mean_over_levels_then_samples():
    values = np.arange(2 * 4, dtype=float).reshape(2, 4)
    sizes, strata = np.array([1.0, 1, 2, 2]), np.array([0, 0, 1, 1])
    estimate, _, _ = bootstrap.interval([values, values], sizes, strata)
    by_hand = [((0 + 1) / 2 + (2 + 3) / 4) / 2, ((4 + 5) / 2 + (6 + 7) / 4) / 2]
    assert estimate == pytest.approx(2 * np.mean(by_hand))


def test_variance_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(5).normal(size=(1, 400))
    strata = np.zeros(400)
    drawn = bootstrap.redrawn(values[0], np.ones(400), strata, seed=0)
    assert drawn.std() == pytest.approx(values.std(ddof=1) / 20, rel=0.06)


def runs(values, samples=5, levels=LEVELS):
    """Rows of runs: (train_level, train_size, share) → array (samples × questions)."""
    rows = [
        (*key, "test", n, array[n], np.ones(len(levels)), levels)
        for key, array in values.items()
        for n in range(samples)
    ]
    names = ["train_level", "train_size", "restored_percent", "split", "sample"]
    return pd.DataFrame(rows, columns=[*names, *bootstrap.ARRAYS])


def pair(first, second):
    names = ("train_level", "train_size", "restored_percent")
    return [(w, dict(zip(names, key, strict=True))) for w, key in ((1, first), (-1, second))]


@pytest.fixture
def easy_and_hard():
    """Two runs of one level on questions of very different difficulty, the first a bit better."""
    generator = np.random.default_rng(6)
    chance = generator.beta(0.3, 0.3, len(LEVELS))
    worse = generator.binomial(1, chance, (5, len(LEVELS))).astype(float)
    better = np.where(generator.random((5, len(LEVELS))) < 0.1, 1.0, worse)
    return runs({(0, 240, 20): better, (0, 240, 0): worse})


def test_the_same_questions_make_the_interval_narrower(easy_and_hard):
    estimate, low, high = bootstrap.contrast(easy_and_hard, pair((0, 240, 20), (0, 240, 0)))
    assert 0 < low < estimate < high
    alone = [bootstrap.contrast(easy_and_hard, pair((0, 240, x), (0, 240, x))[:1]) for x in (20, 0)]
    apart = np.hypot(*(high - low for _, low, high in alone))
    assert high - low < 0.6 * apart


def test_one_test_level_alone(easy_and_hard):
    terms = [(w, at | {"test_level": 2}) for w, at in pair((0, 240, 20), (0, 240, 0))]
    estimate, *_ = bootstrap.contrast(easy_and_hard, terms)
    arrays = easy_and_hard.groupby("restored_percent")["values"].apply(np.stack)
    assert estimate == pytest.approx((arrays[20] - arrays[0])[:, LEVELS == 2].mean())


def test_swapping_the_terms_turns_the_interval_round(easy_and_hard):
    there, back = (
        bootstrap.contrast(easy_and_hard, pair(*order))
        for order in (((0, 240, 20), (0, 240, 0)), ((0, 240, 0), (0, 240, 20)))
    )
    assert np.allclose(there, [-back[0], -back[2], -back[1]], atol=0.003)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda units: units[units["restored_percent"] == 0],  # a run is missing
        lambda units: units.drop(index=units.index[0]),  # other data samples
        lambda units: units.assign(strata=[np.arange(len(LEVELS))] * len(units)),  # a fact a level
        lambda units: units.assign(values=[ONE] * len(units)),  # nothing tells the models apart
        lambda units: units.iloc[:0],
    ],
)
def test_what_cannot_be_paired_has_no_interval(easy_and_hard, spoil):
    assert bootstrap.contrast(spoil(easy_and_hard), pair((0, 240, 20), (0, 240, 0))) is None


def test_other_questions_have_no_interval(easy_and_hard):
    shorter = runs({(0, 1920, 0): np.ones((5, 60))}, levels=LEVELS[:60])
    units = pd.concat([easy_and_hard, shorter])
    assert bootstrap.contrast(units, pair((0, 1920, 0), (0, 240, 0))) is None


def test_levels_trained_on_need_not_share_their_samples(easy_and_hard):
    other = runs({(1, 240, 0): easy_and_hard["values"].iloc[5:].tolist()}, samples=4)
    units = pd.concat([easy_and_hard, other])
    assert bootstrap.contrast(units, pair((1, 240, 0), (0, 240, 20))) is not None
