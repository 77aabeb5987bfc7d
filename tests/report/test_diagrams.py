"""Figure 1: the numbers behind it are those of the restoration itself, and it can be drawn."""

import json

import numpy as np
import pytest
import torch

from repro.report import diagrams
from repro.restoration import restore

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
    data = diagrams.measure(ranking, percent)
    assert sum(data["parameters"]) + data["unchanged"] == ranking.size == 4000
    assert data["unchanged"] == 7
    unmoved = 7 if percent == 100 else 0
    assert sum(data["restored"]) == restore.how_many(ranking.size, percent) - unmoved
    table = restore.concentration(ranking, [percent]) if percent else None
    share = table["share_of_change_percent"].item() if percent else 0
    assert data["change_percent"] == pytest.approx(share, abs=1e-4)
    assert json.loads(json.dumps(data)) == data


def test_what_is_set_back_lies_above_what_is_kept(ranking):
    data = diagrams.measure(ranking, 20)
    every, back = np.array(data["parameters"]), np.array(data["restored"])
    assert (back <= every).all()
    first = np.flatnonzero(back)[0]
    assert (back[first + 1 :] == every[first + 1 :]).all()


def test_ten_weights_of_the_run_are_shown(ranking):
    weights = diagrams.measure(ranking, 20)["weights"]
    assert len(weights) == len(diagrams.SHOWN)
    sizes = [abs(w["after"] - w["before"]) / abs(w["before"]) for w in weights]
    assert sizes == sorted(sizes, reverse=True)
    assert {w["restored"] for w in weights} == {True, False}


def test_it_is_drawn_with_and_without_anything_to_set_back(ranking):
    for percent in (0, 20):
        figure = diagrams.restoration(diagrams.measure(ranking, percent))
        assert len(figure.axes) == 2
        assert len(figure.axes[0].lines) == len(diagrams.SHOWN)
        figure.canvas.draw()


def test_nothing_moved(ranking):
    still = restore.rank(ranking.pair.base, ranking.pair.base, "transformer")
    data = diagrams.measure(still, 20)
    assert sum(data["parameters"]) == 0 and data["change_percent"] == 0
    diagrams.restoration(data).canvas.draw()
