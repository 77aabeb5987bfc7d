"""Answers counted by topic and level, Wilson intervals, and the paper's mean over levels."""

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from repro.measures.accuracy import answer, count, pack, unpack
from repro.statistics.intervals import Z95, wilson
from repro.statistics.summary import acc
from repro.training.prompts import encode_prompts

# --- answers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single_minded(tiny_loaded):
    """A model that answers every question with " the usa Arvenia", and its tokenizer."""
    tokens = tiny_loaded[1]
    end = encode_prompts(tokens, ["Who?"])[0][-1]
    return tiny.walk(tokens, [end, *tokens(" the usa Arvenia").input_ids, 1]), tokens


def test_answers_are_read_after_the_prompt_of_the_training(single_minded, tiny_facts):
    network, tokens = single_minded
    facts = tiny_facts.head(4).assign(
        object=["arvenia", "Bolstan", "United States of America", "USA Arvenia"]
    )
    seen = []
    done = answer(network, tokens, facts, progress=seen.append)
    assert [c.text for c in done] == [" the usa Arvenia"] * 4  # up to EOS, and no further
    assert [c.hit for c in done] == [True, False, True, True]
    assert sum(seen) == 4


def test_answers_are_greedy_and_in_the_order_of_the_facts(tiny_loaded, tiny_facts):
    facts = tiny_facts.head(20)
    first = answer(*tiny_loaded, facts)
    assert [c.ids for c in first] == [c.ids for c in answer(*tiny_loaded, facts, rows=3)]
    backwards = answer(*tiny_loaded, facts[::-1])
    assert [c.ids for c in backwards][::-1] == [c.ids for c in first]
    assert max(len(c.ids) for c in first) == 16
    assert max(len(c.ids) for c in answer(*tiny_loaded, facts, max_new_tokens=3)) == 3


def test_counts_by_topic_and_level():
    facts = pd.DataFrame(
        {
            "topic": ["P19", "P17", "P17", "P17", "P17"],
            "level": [4, 0, 2, 0, 0],
            "fact_id": list("abcde"),
        },
        index=[9, 3, 5, 7, 1],  # as a selection of a larger frame has it
    )
    hits = [True, False, False, True, True]
    counts = count(facts, hits)
    assert counts.to_dict("list") == {
        "topic": ["P17", "P17", "P19"],
        "test_level": [0, 2, 4],
        "correct": [2, 0, 1],
        "total": [3, 1, 1],
    }


@pytest.mark.parametrize("number", [0, 1, 7, 8, 9, 1600])
def test_answers_are_kept_in_a_bit_each(number):
    hits = np.random.default_rng(number).random(number) < 0.3
    digits = pack(list(hits))
    assert len(digits) == 2 * -(-number // 8)
    assert np.array_equal(unpack(digits, number), hits)


# --- Wilson intervals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # R. G. Newcombe, Statistics in Medicine 17 (1998) 857–872, Table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(correct, total, low, high):
    assert [round(float(x), 4) for x in wilson(correct, total)] == [low, high]


@pytest.mark.parametrize(("correct", "total"), [(1, 2), (3, 10), (1, 1000), (999, 1000), (50, 51)])
@pytest.mark.parametrize("z", [1.0, Z95, 3.0])
def test_wilson_solves_its_equation(correct, total, z):
    # The bounds are the proportions from which the observed one is z standard errors away.
    p = correct / total

    def distance(x: float) -> float:
        return abs(p - x) - z * (x * (1 - x) / total) ** 0.5

    low, high = wilson(correct, total, z)
    assert float(low) == pytest.approx(brentq(distance, 0, p, xtol=1e-14), abs=1e-10)
    assert float(high) == pytest.approx(brentq(distance, p, 1, xtol=1e-14), abs=1e-10)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_proportion(pair):
    correct, total = pair
    low, high = wilson(correct, total)
    assert 0 <= low <= high <= 1
    assert low - 1e-12 <= correct / total <= high + 1e-12
    mirrored = wilson(total - correct, total)
    assert (1 - mirrored[1], 1 - mirrored[0]) == (pytest.approx(low), pytest.approx(high))


def test_wilson_of_arrays():
    low, high = wilson([0, 15], [20, 148])
    assert [low[1], high[1]] == [x.item() for x in wilson(15, 148)]
    assert low.shape == high.shape == (2,)


# --- the mean over levels -----------------------------------------------------------------------


def frame(*rows) -> pd.DataFrame:
    columns = ["model", "topic", "test_level", "correct", "total"]
    return pd.DataFrame(rows, columns=columns)


def test_acc_is_the_mean_over_levels_not_over_facts():
    table = acc(frame(("m", "P17", 0, 10, 100), ("m", "P17", 4, 8, 10)), ["model"])
    [row] = table.to_dict("records")
    assert row["accuracy"] == pytest.approx((10 + 80) / 2)
    assert (row["levels"], row["correct"], row["total"]) == (2, 18, 110)


def test_topics_are_summed_before_the_mean():
    rows = ("m", "P17", 0, 1, 1), ("m", "P19", 0, 0, 9), ("m", "P17", 1, 3, 4)
    [row] = acc(frame(*rows), ["model"]).to_dict("records")
    assert row["accuracy"] == pytest.approx((100 * 1 / 10 + 100 * 3 / 4) / 2)


def test_level_without_facts_is_absent_and_never_zero():
    two_levels = frame(("m", "P17", 0, 1, 2), ("m", "P17", 3, 1, 2))
    with_empty = frame(("m", "P17", 0, 1, 2), ("m", "P17", 3, 1, 2), ("m", "P17", 4, 0, 0))
    for table in (acc(two_levels, ["model"]), acc(with_empty, ["model"])):
        assert table["accuracy"].tolist() == [50.0] and table["levels"].tolist() == [2]
    by_level = acc(with_empty, ["model", "test_level"])
    assert by_level["test_level"].tolist() == [0, 3]
    only_empty = acc(frame(("m", "P17", 4, 0, 0)), ["model"])
    assert only_empty.empty
    assert list(only_empty.columns) == list(by_level.columns.drop("test_level"))


def test_one_level_has_its_wilson_interval():
    rows = [("a", "P17", 2, 15, 148), ("b", "P17", 2, 81, 263)]
    table = acc(frame(*rows), ["model"]).set_index("model")
    for model, correct, total in (("a", 15, 148), ("b", 81, 263)):
        low, high = wilson(correct, total)
        estimate = table.loc[model, ["accuracy", "low", "high"]].tolist()
        assert estimate == pytest.approx([100 * correct / total, 100 * low, 100 * high])


def test_interval_of_two_levels_by_hand():
    [row] = acc(frame(("m", "t", 0, 15, 148), ("m", "t", 1, 81, 263)), ["model"]).to_dict("records")
    p = np.array([15 / 148, 81 / 263])
    low, high = np.array([0.06239, 0.25529]), np.array([0.16049, 0.36621])
    assert row["low"] == pytest.approx(100 * (p.mean() - np.hypot(*(p - low)) / 2), abs=0.01)
    assert row["high"] == pytest.approx(100 * (p.mean() + np.hypot(*(high - p)) / 2), abs=0.01)


counts = st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(deadline=None, max_examples=50)
@given(st.lists(counts, min_size=1, max_size=5))
def test_interval_contains_the_accuracy(levels):
    rows = [("m", "P17", level, *pair) for level, pair in enumerate(levels)]
    [row] = acc(frame(*rows), ["model"]).to_dict("records")
    assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 100
    assert row["low"] < row["high"]
    assert row["accuracy"] == pytest.approx(100 * np.mean([c / n for c, n in levels]))


def test_interval_covers_the_truth_about_95_times_in_100():
    generator, truth, covered = np.random.default_rng(0), np.array([0.05, 0.3, 0.8]), []
    drawn = generator.binomial(40, truth, size=(1500, 3))
    rows = [(str(i), "t", level, drawn[i, level], 40) for i in range(1500) for level in range(3)]
    table = acc(frame(*rows), ["model"])
    covered = (table["low"] <= 100 * truth.mean()) & (100 * truth.mean() <= table["high"])
    assert 0.93 <= covered.mean() <= 0.975


def test_groups_are_kept_apart_and_may_be_none():
    rows = [("a", "P17", 0, 1, 4), ("b", "P17", 0, 3, 4), ("b", "P19", 1, 1, 1)]
    table = acc(frame(*rows), ["model"])
    assert table["model"].tolist() == ["a", "b"]
    assert table["accuracy"].tolist() == pytest.approx([25.0, (75 + 100) / 2])
    everything = acc(frame(*rows), [])
    assert everything["accuracy"].tolist() == pytest.approx([(50 + 100) / 2])
    assert list(everything.columns) == ["accuracy", "low", "high", "levels", "correct", "total"]
