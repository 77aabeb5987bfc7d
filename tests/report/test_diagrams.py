"""Figure 1: it is drawn from what a run's weights gave, and a page without them says so."""

import json

import pytest
import torch

from repro import files
from repro.report import diagrams
from repro.restoration import restore, weight_changes

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def ranking():
    generator = torch.Generator().manual_seed(0)
    base = {NAME: torch.randn(40, 50, generator=generator)}
    tuned = {NAME: base[NAME] + 0.01 * torch.randn(40, 50, generator=generator)}
    return restore.rank(base, tuned, "transformer")


def test_it_is_drawn_with_and_without_anything_to_set_back(ranking):
    for percent in (0, 20):
        figure = diagrams.restoration(weight_changes.measure(ranking, percent))
        assert len(figure.axes) == 2
        assert len(figure.axes[0].lines) == len(weight_changes.SHOWN)
        figure.canvas.draw()


def test_a_run_in_which_nothing_moved_is_drawn(ranking):
    still = restore.rank(ranking.pair.base, ranking.pair.base, "transformer")
    diagrams.restoration(weight_changes.measure(still, 20)).canvas.draw()


def test_the_page_shows_the_measured_share_nearest_to_the_one_asked(ranking, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path))
    shares = [weight_changes.measure(ranking, share) for share in (5, 20)]
    record = {"profile": "full", "level": 0, "size": 1920, "shares": shares}
    files.write_atomic(tmp_path / "micro-m" / "benchmarks" / "weights.json", json.dumps(record))
    shown = diagrams.shown("micro-m", 18, "5.2").html
    assert "Figure 5.2." in shown and "20 % of the parameters are set back" in shown
    assert "level 0, 1,920 facts" in shown
    missing = diagrams.shown("micro-s", 20, "5.2").html
    assert "<svg" not in missing and "python benchmarks/weights.py micro-s" in missing
