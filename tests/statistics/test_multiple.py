"""Many comparisons: coverage together, errors under the null, power, and the textbook formulas."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from repro.statistics import bootstrap, contrasts, multiple, verdicts
from repro.statistics.verdicts import CONTRADICTED, EXCEPTIONS, HOLDS, UNDECIDED

QUESTIONS = 240
ONE, ALIKE = np.ones(QUESTIONS), np.zeros(QUESTIONS)


def made_deviations(values):
    """Return joint bootstrap deviations of the means of `values` (questions × comparisons)."""
    (_, counts), *_ = bootstrap._counts(ALIKE.astype(np.int64).tobytes(), 0)
    drawn = counts @ values.astype(np.float32) / counts.sum(axis=1, keepdims=True)
    return drawn - values.mean(axis=0)


def test_simultaneous_intervals_cover_all_values_together():
    generator, covered, runs = np.random.default_rng(1), 0, 500
    for _ in range(runs):
        shared = generator.normal(size=(QUESTIONS, 1))  # a question is easy or hard for all
        values = shared + generator.normal(size=(QUESTIONS, 10)) * np.linspace(0.2, 3, 10)
        low, high = multiple.simultaneous(values.mean(axis=0), made_deviations(values))
        covered += bool(((low <= 0) & (high >= 0)).all())
    assert 0.93 <= covered / runs <= 0.97


def test_single_intervals_do_not_cover_all_values_together():
    generator, covered = np.random.default_rng(2), 0
    for _ in range(200):
        values = generator.normal(size=(QUESTIONS, 10))
        low, high = np.quantile(made_deviations(values), [0.025, 0.975], axis=0)
        means = values.mean(axis=0)
        covered += bool(((means + low <= 0) & (means + high >= 0)).all())
    assert covered / 200 < 0.8


def judged(effects, generator, of=verdicts.ALL):
    """Return the rows of comparisons whose true effects are so many standard errors."""
    values = effects / np.sqrt(QUESTIONS) + generator.normal(size=(QUESTIONS, len(effects)))
    deviations = made_deviations(values)
    ends = values.mean(axis=0) + np.quantile(deviations, [0.025, 0.975], axis=0)
    measured = [
        contrasts.Measured(*numbers, contrasts.PAIRED, draws)
        for *numbers, draws in zip(values.mean(axis=0), *ends, deviations.T, strict=True)
    ]
    comparisons = [contrasts.Comparison("", [], "above", pd.DataFrame())] * len(effects)
    return verdicts._judged(comparisons, measured, of)


def verdict_counts(effect, runs, of=verdicts.ALL, k=20):
    generator, effects = np.random.default_rng(3), np.full(k, effect)
    outcomes = [verdicts.overall(judged(effects, generator, of), of) for _ in range(runs)]
    return pd.Series(outcomes).value_counts()


def test_null_effects_contradict_in_at_most_one_claim_of_twenty():
    counts = verdict_counts(0.0, 200)
    assert counts.get(CONTRADICTED, 0) + counts.get(EXCEPTIONS, 0) <= 0.05 * 200
    assert counts.get(HOLDS, 0) == 0 and counts[UNDECIDED] >= 0.9 * 200


def test_null_effects_support_some_in_at_most_one_claim_of_twenty():
    assert verdict_counts(0.0, 100, verdicts.SOME).get(HOLDS, 0) <= 0.05 * 100


def test_null_effects_support_most_hardly_ever():
    counts = verdict_counts(0.0, 100, verdicts.MOST)
    assert counts.get(HOLDS, 0) + counts.get(CONTRADICTED, 0) <= 0.05 * 100


def test_effects_of_four_standard_errors_hold():
    assert verdict_counts(4.0, 100)[HOLDS] >= 0.6 * 100


def test_effects_the_other_way_contradict():
    assert verdict_counts(-4.0, 50)[CONTRADICTED] == 50


def test_a_few_failures_among_many_are_exceptions():
    rows = judged(np.array([8.0] * 17 + [-8.0] * 3), np.random.default_rng(4))
    assert verdicts.overall(rows) == EXCEPTIONS and verdicts.count(rows) == (17, 20)


def test_the_pooled_effect_is_the_mean_and_narrower_than_its_parts():
    rows = judged(np.full(10, 2.0), np.random.default_rng(5))
    effect, low, high = rows.attrs["pooled"]
    assert effect == pytest.approx(rows["estimate"].mean()) and low < effect < high
    assert high - low < 0.5 * (rows["high"] - rows["low"]).mean()
    assert (rows["low_joint"] < rows["low"]).all() and (rows["high_joint"] > rows["high"]).all()


def test_what_all_comparisons_share_does_not_average_out():
    values = np.repeat(np.random.default_rng(6).normal(size=(QUESTIONS, 1)), 5, axis=1)
    deviations = made_deviations(values)
    _, low, high = multiple.pooled(values.mean(axis=0), deviations)
    one = np.quantile(deviations[:, 0], [0.025, 0.975])
    assert (high - low) == pytest.approx(one[1] - one[0])


def test_holm_is_the_textbook_example():
    adjusted = multiple.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert multiple.holm([0.9, 0.8]).max() == 1


def test_partial_conjunction_ends_are_bonferroni_and_the_largest_p_value():
    p_values = [0.001, 0.02, 0.2]
    assert multiple.partial_conjunction(p_values, 1) == pytest.approx(0.003)
    assert multiple.partial_conjunction(p_values, 2) == pytest.approx(0.04)
    assert multiple.partial_conjunction(p_values, 3) == pytest.approx(0.2)
    for wrong in (0, 4):
        with pytest.raises(ValueError, match="must be between 1 and 3"):
            multiple.partial_conjunction(p_values, wrong)


@pytest.mark.parametrize(
    "low, high, expected", [(-0.5, 2, True), (-3, -1.5, False), (-3, 2, None), (-3, -0.5, None)]
)
def test_no_harm_is_within_a_margin(low, high, expected):
    assert multiple.non_inferior(low, high, margin=1) is expected


def test_a_margin_must_be_positive():
    with pytest.raises(ValueError, match="must be positive, not 0"):
        multiple.non_inferior(-1, 1, 0)


def test_a_p_value_fits_its_interval():
    assert multiple.one_sided_p(2.0, 0.0, 4.0) == pytest.approx(0.025)
    assert multiple.one_sided_p(-2.0, -4.0, 0.0) == pytest.approx(0.975)
    assert multiple.one_sided_p(0.0, 0.0, 0.0) == 1
    assert multiple.one_sided_p(2.0, 1.0, 4.0) < 0.001


def test_comparisons_without_draws_are_corrected_by_bonferroni():
    frame = pd.DataFrame({"run": [0, 1, 2], "accuracy": [0.0, -10, 9], "low": -7.0, "high": 7.0})
    frame = frame.assign(low=frame["accuracy"] - 7, high=frame["accuracy"] + 7)
    one = contrasts.Comparison("", [(1, {"run": 1})], "above", frame)
    assert verdicts.compare_jointly([one])["verdict"].tolist() == [CONTRADICTED]
    comparisons = [one, contrasts.Comparison("", [(1, {"run": 0})], "above", frame)] * 10
    assert set(verdicts.compare_jointly(comparisons)["verdict"]) == {UNDECIDED}
    low = multiple.widened(np.array([7.0]), 20)
    assert low[0] == pytest.approx(7 * 3.0233 / 1.95996, rel=1e-3)


def test_random_effects_by_hand():
    mean, low, high, between = multiple.random_effects(np.array([1.0, 2.0, 3.0]), np.full(3, 0.1))
    assert mean == pytest.approx(2)
    # With equal errors the variance of the estimates is that of the true effects and the errors.
    assert between == pytest.approx(np.sqrt(1 - 0.01))
    assert high - mean == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(3))
    assert low == pytest.approx(2 * mean - high)


def test_effects_alike_have_no_spread_between_units_and_keep_their_own_errors():
    mean, _, high, between = multiple.random_effects(np.array([5.0, 5.0]), np.array([1.0, 1.0]))
    assert (mean, between) == (5, 0)
    assert high - mean == pytest.approx(1.959964 / np.sqrt(2))
    with pytest.raises(ValueError, match="at least two"):
        multiple.random_effects(np.array([5.0]), np.array([1.0]))


def test_the_interval_of_random_effects_covers_the_mean():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        truth = generator.normal(3, 2, 6)
        low, high = multiple.random_effects(generator.normal(truth, 1), np.ones(6))[1:3]
        inside += low <= 3 <= high
    assert 0.92 <= inside / 1000 <= 0.98
