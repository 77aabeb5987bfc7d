"""What fine-tuning did to weights: the numbers are those of the restoration itself."""

import json

import numpy as np
import pytest
import torch

from repro.restoration import restore, weight_changes

NAMES = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"]


@pytest.fixture
def ranking():
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(40, 50, generator=generator) for name in NAMES}
    tuned = {name: p + 0.01 * torch.randn(p.shape, generator=generator) for name, p in base.items()}
    tuned[NAMES[0]][0, :7] = base[NAMES[0]][0, :7]  # seven that fine-tuning left alone
    return restore.rank(base, tuned, "transformer")


@pytest.mark.parametrize("percent", [0.0, 5.0, 20.0, 100.0])
def test_the_numbers_are_those_of_the_restoration(ranking, percent):
    data = weight_changes.measure(ranking, percent)
    assert sum(data["parameters"]) + data["unchanged"] == ranking.size == 4000
    assert data["unchanged"] == 7
    unmoved = 7 if percent == 100 else 0
    assert sum(data["restored"]) == restore.how_many(ranking.size, percent) - unmoved
    table = restore.concentration(ranking, [percent]) if percent else None
    share = table["share_of_change_percent"].item() if percent else 0
    assert data["change_percent"] == pytest.approx(share, abs=1e-4)
    assert json.loads(json.dumps(data)) == data


def test_what_is_set_back_lies_above_what_is_kept(ranking):
    data = weight_changes.measure(ranking, 20)
    every, back = np.array(data["parameters"]), np.array(data["restored"])
    assert (back <= every).all()
    first = np.flatnonzero(back)[0]
    assert (back[first + 1 :] == every[first + 1 :]).all()


def test_ten_weights_of_the_run_are_shown(ranking):
    weights = weight_changes.measure(ranking, 20)["weights"]
    assert len(weights) == len(weight_changes.SHOWN)
    sizes = [abs(w["after"] - w["before"]) / abs(w["before"]) for w in weights]
    assert sizes == sorted(sizes, reverse=True)
    assert {w["restored"] for w in weights} == {True, False}


def test_nothing_moved(ranking):
    still = restore.rank(ranking.pair.base, ranking.pair.base, "transformer")
    data = weight_changes.measure(still, 20)
    assert sum(data["parameters"]) == 0 and data["change_percent"] == 0
