"""Figures: what is drawn is what the frame holds; palette, size and empty frames."""

from itertools import pairwise

import made_up
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from repro import paper
from repro.report import (
    controls,
    divergence,
    exposure,
    layers,
    locations,
    mastery,
    restoration,
    scale,
    style,
)
from repro.statistics import summary

ACCURACY = made_up.accuracy(sizes=[*made_up.SIZES, (3000, "All")], percents=(0, 1, 5, 20))
MEANS = summary.means(ACCURACY)
LEVELS = summary.per_level(ACCURACY)
KL = divergence.means(made_up.divergence())
CONTROLS = controls.means(made_up.controls())
EXPOSED = made_up.exposed()
PLACES = locations.chosen(made_up.where(), 20)
RESTORE = paper.table("restore")


def rates():
    tried = {1e-5: 0, 1e-4: 1, 1e-3: 2}
    runs = made_up.accuracy(levels=(0,), sizes=[(8, "8")], samples=1).query("split == 'dev'")
    frames = [runs.assign(learning_rate=rate, train_level=-2) for rate in tried]
    return scale.learning_rate_means(pd.concat(frames))


FIGURES = {
    "scale": lambda: scale.figure(MEANS),
    "level_accuracy": lambda: divergence.accuracy_figure(LEVELS, 2),
    "divergence": lambda: divergence.figure(KL),
    "against": lambda: divergence.scatter_figure(KL.assign(accuracy=range(len(KL)))),
    "logits": lambda: divergence.logits_figure(made_up.logits_example()),
    "restoration": lambda: restoration.figure(MEANS, "test", 20),
    "paper": lambda: restoration.figure(RESTORE, "testood"),
    "concentration": lambda: restoration.concentration_figure(
        restoration.concentration_means(made_up.concentration()), paper.table("concentration")
    ),
    "distribution": lambda: mastery.figure(
        pd.concat([made_up.distribution(), paper.table("distribution")])
    ),
    "topics": lambda: mastery.topics_figure(made_up.mastery(), {"P17": "P17 country"}),
    "rates": lambda: mastery.rates_figure(made_up.mastery()),
    "templates": lambda: mastery.templates_figure(mastery.template_rates(made_up.mastery())),
    "learning_rates": lambda: scale.learning_rate_figure(rates(), 1e-4),
    "controls": lambda: controls.figure(CONTROLS, "restored_percent"),
    "amounts": lambda: controls.figure(CONTROLS, "undone_l1"),
    "layer_lifts": lambda: locations.layers_figure(
        locations.summary(PLACES, "layer"), locations.summary(locations.published()[0], "layer")
    ),
    "module_lifts": lambda: locations.modules_figure(
        locations.summary(PLACES, "module"), locations.summary(locations.published()[1], "module")
    ),
    "block_costs": lambda: layers.figure(
        layers.costs(layers.means(made_up.layers())).query("split == 'test'"), "made up"
    ),
    "exposure": lambda: exposure.figure(exposure.curves(EXPOSED)),
    "exposure_levels": lambda: exposure.levels_figure(exposure.levels(EXPOSED)),
    "exposure_topics": lambda: exposure.topics_figure(exposure.topics(EXPOSED, "small")),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_closed_white_narrow_and_labelled(name):
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    assert not plt.get_fignums()  # an open figure would appear twice in a notebook
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert figure.get_figwidth() == style.WIDTH
    last = [axis for axis in figure.axes if axis.get_xlabel()]
    assert last, "no axis says what it shows"
    small = [t for t in figure.findobj(plt.Text) if t.get_text() and t.get_fontsize() < 8]
    assert not small


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off(name):
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.x0 >= -0.02 and drawn.x1 <= width + 0.02
    assert drawn.y0 >= -0.02 and drawn.y1 <= height + 0.02


def luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_level_colours_are_ordered_by_lightness_and_visible_on_white():
    lightness = [luminance(colour) for colour in style.COLOURS]
    assert lightness == sorted(lightness)
    assert 1.05 / (lightness[-1] + 0.05) >= 2.9
    steps = [(b + 0.05) / (a + 0.05) for a, b in pairwise(lightness)]
    assert min(steps) > 1.2


EMPTY = {
    "scale": lambda: scale.figure(MEANS.iloc[:0]),
    "level_accuracy": lambda: divergence.accuracy_figure(LEVELS, 4),
    "divergence": lambda: divergence.figure(divergence.means(pd.DataFrame())),
    "against": lambda: divergence.scatter_figure(KL.assign(accuracy=0).iloc[:0]),
    "restoration": lambda: restoration.figure(MEANS.iloc[:0], "test"),
    "concentration": lambda: restoration.concentration_figure(
        restoration.concentration_means(pd.DataFrame()), paper.table("concentration")
    ),
    "learning_rates": lambda: scale.learning_rate_figure(rates().iloc[:0], 1e-4),
    "topics": lambda: mastery.topics_figure(made_up.mastery().iloc[:0], {}),
    "controls": lambda: controls.figure(CONTROLS.iloc[:0], "undone_l2"),
    "layer_lifts": lambda: locations.layers_figure(
        locations.summary(PLACES.iloc[:0], "layer"),
        locations.summary(locations.published()[0], "layer"),
    ),
    "module_lifts": lambda: locations.modules_figure(
        locations.summary(PLACES.iloc[:0], "module"),
        locations.summary(locations.published()[1], "module"),
    ),
    "block_costs": lambda: layers.figure(
        layers.costs(layers.means(made_up.layers().iloc[:0])), "made up"
    ),
    "exposure": lambda: exposure.figure(exposure.curves(EXPOSED.iloc[:0])),
    "exposure_levels": lambda: exposure.levels_figure(exposure.levels(EXPOSED.iloc[:0])),
    "exposure_topics": lambda: exposure.topics_figure(exposure.topics(EXPOSED, "none")),
}


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_draw_is_said_not_raised(name):
    figure = EMPTY[name]()
    figure.draw_without_rendering()
    assert figure.axes
