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


def curve(axis, level):
    """The data of the line in a level's colour."""
    lines = [line for line in axis.lines if line.get_color() == style.COLOURS[level]]
    return lines[0].get_xydata()


def test_curves_are_the_frames_numbers():
    figure = restoration.figure(RESTORE, "test")
    wanted = RESTORE.query("split == 'test' and train_size == 1920 and train_level == 2")
    wanted = wanted.sort_values("restored_percent")[["restored_percent", "accuracy"]]
    np.testing.assert_array_equal(curve(figure.axes[1], 2), wanted)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "In-domain, 240 training facts",
        "In-domain, 1,920 training facts",
    ]


def test_every_level_has_a_colour_and_a_marker_of_its_own():
    figure = restoration.figure(RESTORE, "test")
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    assert [line.get_marker() for line in lines] == style.MARKERS
    assert [line.get_color() for line in lines] == style.COLOURS


def luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_level_colours_are_ordered_by_lightness_and_visible_on_white():
    found = [luminance(colour) for colour in style.COLOURS]
    assert found == sorted(found)
    assert 1.05 / (found[-1] + 0.05) >= 2.9
    steps = [(b + 0.05) / (a + 0.05) for a, b in pairwise(found)]
    assert min(steps) > 1.2


def test_the_asked_share_is_ringed():
    figure = restoration.figure(MEANS, "test", 20)
    rings = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert rings and all(set(line.get_xdata()) == {20} for line in rings)


def test_a_level_that_was_not_trained_on_is_not_drawn():
    figure = scale.figure(summary.means(made_up.accuracy(levels=(0, 2), sizes=[(8, "8")])))
    colours = {line.get_color() for line in figure.axes[0].lines}
    assert style.COLOURS[2] in colours and style.COLOURS[1] not in colours
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["0", "2", "before"]


def test_bars_add_up_to_all_facts():
    figure = mastery.figure(paper.table("distribution"), "test")
    widths = np.array([bar.get_width() for bar in figure.axes[0].patches]).reshape(5, 5)
    np.testing.assert_allclose(widths.sum(axis=0), 100)


def test_the_histogram_counts_every_fact_once():
    facts = made_up.mastery()
    heights = [bar.get_height() for bar in mastery.rates_figure(facts).axes[0].patches]
    assert sum(heights) == len(facts) and heights[0] == (facts["rate"] == 0).sum()


def test_rates_at_a_boundary_belong_to_the_lower_level():
    facts = made_up.mastery(facts=4).assign(rate=[0, 0.25, 0.251, 1], level=[0, 1, 2, 4])
    bars = mastery.rates_figure(facts).axes[0].patches[1:]
    filled = [(place, bar) for place, bar in enumerate(bars) if bar.get_height()]
    assert [place for place, _ in filled] == [4, 5, 19]
    colours = [to_rgb(bar.get_facecolor()) for _, bar in filled]
    assert colours == [to_rgb(style.COLOURS[level]) for level in (1, 2, 4)]


def test_tokens_show_their_spaces():
    labels = [
        t.get_text()
        for t in divergence.logits_figure(made_up.logits_example()).axes[0].get_yticklabels()
    ]
    assert labels[0] == "␣France" and labels[4] == "⏎" and len(labels) == 10


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


def test_topics_with_the_same_question_keep_their_own_bars():
    facts = made_up.mastery()
    names = {topic: f"{topic}: Where is it?" for topic in made_up.TOPICS}
    assert len(mastery.topics_figure(facts, names).axes[0].get_yticks()) == len(made_up.TOPICS)
    with pytest.raises(ValueError, match="same name"):
        mastery.topics_figure(facts, dict.fromkeys(made_up.TOPICS, "Where is it?"))


def test_controls_have_a_panel_per_run_and_a_line_per_way():
    figure = controls.figure(CONTROLS, "undone_l1")
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [f"level {i}, {size} facts" for i in (0, 1) for size in (240, 960)]
    colour = controls.WAYS["absolute"]
    (line,) = [one for one in figure.axes[3].lines if one.get_color() == colour]
    own = CONTROLS.query("train_level == 1 and train_size == 960")
    own = own[own["strategy"].isin(["none", "absolute"])].sort_values("undone_l1")
    np.testing.assert_array_equal(line.get_xydata(), own[["undone_l1", "accuracy"]])


def test_a_control_whose_amount_is_unknown_is_not_drawn():
    lost = CONTROLS["undone_l1"].mask(CONTROLS["strategy"] == "top")
    figure = controls.figure(CONTROLS.assign(undone_l1=lost), "undone_l1")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "top" not in texts and "random" in texts


def test_exposure_has_a_line_per_model_in_their_order():
    figure = exposure.figure(exposure.curves(EXPOSED))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small", "large"]
    small, large = (line.get_ydata() for line in figure.axes[0].lines[:2])
    assert len(small) == 6 and (large[1:] > small[1:]).all()


def test_exposures_too_close_to_label_share_a_label():
    assert exposure._apart([0, 1, 2, 100]) == [0, 1, 100]
