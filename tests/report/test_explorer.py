"""The restoration explorer: its numbers are those of the records, and a slider moves all of it."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from visit import Visit

from repro.report import diagrams, explorer

SCRIPT = Path(__file__).parents[2] / "book/_static/explorer.js"
SHARES = (0, 1, 5, 20, 60)


@pytest.fixture
def means():
    """Return made-up accuracies of three levels and two sizes, of which one is the pool."""
    rows = [
        {
            **{"split": split, "train_level": level, "train_size": size, "size_label": label},
            **{"restored_percent": float(share), "accuracy": 10.0 * level + share / 4 + place},
        }
        for place, (size, label) in enumerate(((240, "240"), (1920, "1920"), (3000, "All")))
        for split in ("test", "testood")
        for level in (-1, 0, 1, 2)
        for share in SHARES
    ]
    return pd.DataFrame(rows)


def data(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])


def test_it_shows_every_share_of_the_largest_sampled_size(means):
    html = explorer.explorer(means, "micro-m", "<M>", 20).html
    assert re.findall(r"</svg> (level \d)</th>", html) == ["level 0", "level 1", "level 2"]
    cells = np.array(re.findall(r"<td>([\d.]+)</td>", html), float).reshape(len(SHARES), 3)
    assert cells[:, 1].tolist() == [10.0 + share / 4 + 1 for share in SHARES]
    assert "1,920 facts" in html and "<M>" not in html
    assert re.search(r'<tr aria-current="true"><th scope="row">20 %', html)
    shown = data(html)
    assert shown["shares"][2] == "5 % of the parameters restored"
    assert shown["says"][3].startswith("<b>20 % restored</b>") and "level 2 26.0 % (+5.0)" in html
    assert len(shown["at"]) == len(shown["rings"]) == len(shown["histograms"]) == len(SHARES)
    heights = np.array(shown["rings"], float)
    assert (np.diff(shown["at"]) > 0).all()
    assert (np.diff(heights, axis=0) < 0).all()  # more is higher up


@pytest.mark.parametrize("share", [0, 1, 20, 60])
def test_histograms_move_what_is_set_back_to_the_unchanged(share):
    record = diagrams.weight_record("micro-m")
    bars = explorer._bars(record, share)
    for bar in (bars.tuned, bars.restored):
        assert bar.sum() == pytest.approx(100)
    assert bars.back.sum() == pytest.approx(share, abs=1e-3)
    assert bars.restored[0] == pytest.approx(bars.tuned[0] + share, abs=1e-3)
    np.testing.assert_allclose(bars.restored[1:], (bars.tuned - bars.back)[1:])


def test_without_weights_or_runs_it_says_so(means):
    html = explorer.explorer(means, "no-such-model", "X", 20).html
    assert "were not kept" in html and "<figure>" in html and "<figure class" not in html
    assert data(html)["histograms"] == [None] * len(SHARES)
    assert explorer._bars(diagrams.weight_record("micro-m"), 33) is None  # no such share was kept
    assert "No run was restored" in explorer.explorer(means[:0], "micro-m", "X", 20).html


@pytest.mark.browser
@pytest.mark.parametrize("model", ["micro-m", "no-such-model"])
def test_the_slider_moves_marker_row_and_histogram(means, browser, tmp_path, model):
    part = explorer.explorer(means, model, "M", 20).html
    text = f'<html lang="en"><meta charset="utf-8">{part}<script src="explorer.js"></script></html>'
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html>{text}")
    (tmp_path / "explorer.js").write_text(SCRIPT.read_text())
    visit = Visit(browser, tmp_path.as_uri(), viewport={"width": 390, "height": 844})
    page, shown = visit.open("page.html"), data(part)
    slider = page.get_by_role("slider", name="Share of the parameters that is set back")
    restored = page.locator("figure.restored .kept")
    seen = set()
    slider.focus()
    page.keyboard.press("Home")
    for place, share in enumerate(SHARES):
        assert slider.get_attribute("aria-valuetext") == shown["shares"][place]
        assert page.locator("tr[aria-current]").inner_text().startswith(f"{share} %")
        moved = page.locator(".moving").get_attribute("transform")
        assert moved == f"translate({shown['at'][place]} 0)".replace(".0 ", " ")
        cy = page.eval_on_selector_all(".ring", "all => all.map(r => r.getAttribute('cy'))")
        assert cy == shown["rings"][place]
        assert page.get_by_role("status").inner_text().startswith(f"{share} % restored")
        if model == "micro-m":
            assert restored.get_attribute("d") == shown["histograms"][place][2]
            seen.add(restored.get_attribute("d"))
        page.keyboard.press("ArrowRight")
    assert len(seen) == (len(SHARES) if model == "micro-m" else 0)
    page.get_by_role("row", name="5 %").first.click()
    assert slider.input_value() == "2"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert visit.trouble == []
