"""Means over data samples, intervals, chosen shares."""

import made_up
import numpy as np
import pandas as pd
import pytest

from repro.statistics import summary
from repro.statistics.intervals import wilson
from repro.statistics.summary import acc


def test_means_over_samples_by_hand():
    accuracy = made_up.accuracy(levels=(0, 1), sizes=[(8, "8")], samples=2)
    got = summary.means(accuracy).query("split == 'test' and train_level == 1").iloc[0]
    runs = accuracy.query("split == 'test' and train_level == 1")
    cells = runs.groupby(["sample", "test_level"])[["correct", "total"]].sum()
    by_sample = (100 * cells["correct"] / cells["total"]).groupby("sample").mean()
    assert got["accuracy"] == pytest.approx(by_sample.mean())
    assert got["spread"] == pytest.approx(abs(by_sample[0] - by_sample[1]) / np.sqrt(2))
    assert got["n"] == 2 and got["total"] == runs["total"].sum()


def test_more_samples_of_the_same_questions_do_not_narrow_the_interval():
    one = made_up.accuracy(levels=(0, 1), sizes=[(8, "8")], samples=1)
    copies = pd.concat([one.assign(sample=i) for i in range(5)])
    columns = ["accuracy", "low", "high"]
    left, right = (summary.means(f).query("train_level == 1")[columns] for f in (one, copies))
    np.testing.assert_allclose(left, right)
    assert summary.means(one)["spread"].isna().all()


def test_a_single_level_has_the_wilson_interval():
    levels = summary.per_level(made_up.accuracy(samples=1))
    low, high = wilson(levels["correct"], levels["total"])
    np.testing.assert_allclose(levels["low"], 100 * low)
    np.testing.assert_allclose(levels["high"], 100 * high)


def test_per_level_means_to_acc():
    accuracy = made_up.accuracy()
    run = ["train_level", "train_size", "split"]
    by_level = summary.per_level(accuracy).groupby(run)["accuracy"].mean()
    means = summary.means(accuracy).set_index(run)["accuracy"]
    np.testing.assert_allclose(by_level.loc[means.index], means)
    assert acc(accuracy, by=[]).shape == (1, 6)


def test_best_share_is_chosen_on_one_split_and_reported_on_another():
    frame = pd.DataFrame(
        [
            (8, 0, split, share, value)
            for split, values in {"dev": (10, 30, 30), "test": (10, 12, 40)}.items()
            for share, value in zip((0.0, 5.0, 20.0), values, strict=True)
        ],
        columns=["train_size", "train_level", "split", "restored_percent", "accuracy"],
    ).assign(low=0.0, high=50.0, spread=np.nan, n=1)
    fair, unfair = (summary.best_share(frame, on).iloc[0] for on in ("dev", "test"))
    assert (fair["restored_percent"], fair["accuracy"], fair["gain"]) == (5.0, 12, 2)
    assert (unfair["restored_percent"], unfair["accuracy"], unfair["gain"]) == (20.0, 40, 30)


def test_restored_compares_only_the_samples_that_were_restored():
    plain = made_up.accuracy(levels=(0,), sizes=[(8, "8"), (240, "240")], samples=3)
    some = made_up.accuracy(levels=(0,), sizes=[(240, "240")], samples=1, percents=(5,))
    compared = summary.restored(pd.concat([plain, some.query("train_level == 0")]))
    assert set(compared["train_size"]) == {240} and set(compared["sample"]) == {0}
    assert set(compared["restored_percent"]) == {0, 5}
