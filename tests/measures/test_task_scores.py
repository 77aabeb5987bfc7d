"""Scores of answers to GSM8K and XSum."""

import pytest

from repro.measures.task_scores import METRICS, score


def test_gsm8k_is_right_or_wrong_and_counts_what_has_no_number():
    answers = ["1 + 1 = 2 #### 2", "#### 2.0", "2", "#### 3", "#### 1,000"]
    done = score("gsm8k", answers, ["#### 2", "#### 2", "#### 2", "#### 2", "#### 1000"])
    assert done.values == {"gsm8k_accuracy": [1, 1, 0, 0, 1]}
    assert done.blank == 1


def test_rouge_by_hand():
    done = score("xsum", ["The cats sat", "a b c d", " . "], ["cat sits the", "a b c d", "a"])
    one, two, longest = (done.values[metric] for metric in METRICS["xsum"])
    assert one == [pytest.approx(2 / 3, abs=1e-6), 1, 0]  # the and cat (stemmed), of three each
    assert two == [0, 1, 0]
    assert longest == [pytest.approx(1 / 3, abs=1e-6), 1, 0]  # one word at most is in order
    assert done.blank == 1


def test_what_rouge_has_no_word_for_is_counted():
    answers = ["Мост открыт", "a bridge", "橋 2018", "…"]
    done = score("xsum", answers, ["a bridge", "Мост открыт", "2018", "a"])
    assert done.values["xsum_rouge1"] == [0, 0, 1, 0] and done.blank == 3
