"""How the facts of a study were chosen by score, and the effect on the facts of a level.

The score only decides which facts are measured. The level of a fact still follows from its sampled
completions (Equation 1). But within a level, some score bands have more facts than in a random
sample.
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from repro.paper import LEVELS, SPLIT_TITLES
from repro.report import html
from repro.report.html import Html
from repro.report.layout import tabs
from repro.study import Study

# Facts that a level needs, from level 0 to 4, to be trained on and tested with.
NEEDED = {"train": (240, 240, 240, 240, 60), "test": (60, 60, 60, 60, 30)}
BAND_COLUMNS = ["split", "scores", "scored", "drawn", *(f"level {level}" for level in LEVELS)]
WITHIN = ["split", "level", "drawn", "stand_for", "score_of_drawn", "score_of_all", "worth"]


def bands(scored: pd.DataFrame, edges: list[float]) -> pd.DataFrame:
    """Return the facts of each split and score band: `BAND_COLUMNS`.

    Args:
        scored: `Results.scored`.
        edges: the scores at which the bands meet, ascending.
    """
    names, rows = _names(edges), []
    for (split, band), facts in scored.groupby(["split", "band"], sort=False):
        levels = facts["level"].value_counts()
        counts = [int(levels.get(level, 0)) for level in LEVELS]
        rows.append((split, int(band), len(facts), sum(counts), *counts))
    table = pd.DataFrame(rows, columns=BAND_COLUMNS)
    table = _by_split(table, "scores")
    return table.assign(scores=table["scores"].map(dict(enumerate(names))))


def within_levels(scored: pd.DataFrame) -> pd.DataFrame:
    """Return the effect of the choice on the facts of each split and level: columns `WITHIN`.

    `stand_for` is the estimated number of facts of the level, `score_of_drawn` the mean score of
    the facts drawn, `score_of_all` its estimate for all facts, and `worth` Kish's effective sample
    size: the number of random facts whose mean would have the same variance.
    """
    rows = []
    drawn = scored[scored["weight"].notna()]
    for (split, level), facts in drawn.groupby(["split", "level"], sort=False):
        weight, score = facts["weight"].to_numpy(float), facts["score"].to_numpy(float)
        worth = weight.sum() ** 2 / (weight**2).sum()
        means = score.mean(), np.average(score, weights=weight)
        rows.append((split, int(level), len(facts), round(weight.sum()), *means, worth))
    return _by_split(pd.DataFrame(rows, columns=WITHIN), "level")


def _by_split(table: pd.DataFrame, then: str) -> pd.DataFrame:
    """Return a table sorted by split, then by a column, with the titles of the splits."""
    place = {split: place for place, split in enumerate(SPLIT_TITLES)}
    table = table.sort_values(
        ["split", then], key=lambda c: c.map(place) if c.name == "split" else c, ignore_index=True
    )
    return table.assign(split=table["split"].map(SPLIT_TITLES))


def unfilled(distribution: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """Return the levels with fewer facts than `NEEDED`.

    `distribution` is `Results.distribution`, `scored` is `Results.scored`.

    Returns:
        DataFrame[split, level, facts, needed, scored]; `scored` is the number of facts that were
        scored.
    """
    counts = distribution.set_index(["split", "level"])["count"]
    sizes = scored["split"].value_counts()
    rows = [
        (split, level, int(counts[split, level]), needed, int(sizes.get(split, 0)))
        for split, by_level in NEEDED.items()
        for level, needed in zip(LEVELS, by_level, strict=True)
        if counts[split, level] < needed
    ]
    return pd.DataFrame(rows, columns=["split", "level", "facts", "needed", "scored"])


def how(measured: Study, scored: pd.DataFrame) -> str:
    """Return Markdown: how the facts of a study were chosen, by score or at random."""
    if not measured.choice:
        return "The facts of each split are all there are, or were drawn at random from them."
    population = measured.choice.request().record().result["population"]
    sizes = scored["split"].value_counts()
    parts = [
        f"{sizes[split]:,} of {sum(population[split].values()):,}"
        f" {SPLIT_TITLES[split].lower()} facts"
        for split in population
    ]
    templates = ", ".join(str(place + 1) for place in measured.choice.protocol.templates)
    drawn, number = int(scored["weight"].notna().sum()), len(measured.choice.edges) + 1
    return (
        f"**Facts chosen by score.** The pre-trained model scored {_listed(parts)}. The score is"
        " the logarithm of the mean probability that it gives to the object (the most likely of its"
        f" names) after the mapping templates {templates} of Tables 13–36. From each of {number}"
        f" score bands facts were drawn, balanced over topics: {drawn:,} in all. Development facts"
        " were drawn at random. The score only decides which facts are measured; their level is"
        " that of Equation 1.\n\n"
        "Within a level, facts of some score bands are over-represented. So an accuracy on a level"
        " is that of the facts drawn, not of a random fact of that level, here and on every page"
        " of this study. A drawn fact stands for as many facts as the inverse of its probability to"
        " be drawn; the shares of Tables 1 and 8 are weighted so (Horvitz and Thompson)."
    )


def tables(measured: Study, scored: pd.DataFrame) -> Html:
    """Return the facts drawn as tabs: by score band, and within the levels."""
    if not measured.choice:
        return html.table(pd.DataFrame(), "Facts by score band")
    by_band = bands(scored, measured.choice.edges)
    parts = {
        "Score bands": html.table(by_band, "Scored and drawn facts by score band, in nats"),
        "Within levels": html.table(
            within_levels(scored), "Drawn facts and all facts of a level; mean scores in nats"
        ),
    }
    return tabs(parts, "How the facts were chosen")


def filling(measured: Study, scored: pd.DataFrame) -> str:
    """Return Markdown: the levels that have fewer facts than they need, if any."""
    missing = unfilled(measured.results.distribution(), scored)
    needed = "; ".join(
        f"{SPLIT_TITLES[split].lower()} {' / '.join(map(str, by_level))}"
        for split, by_level in NEEDED.items()
    )
    text = f"To be trained on and tested with, levels 0 to 4 need facts: {needed}."
    if missing.empty:
        return f"{text} Every level has as many."
    parts = [_too_few(row) for row in missing.itertuples()]
    return f"{text} Not filled: {_listed(parts)}."


def _too_few(row) -> str:
    after = f" after {row.scored:,} were scored" if row.scored else ""
    return f"{SPLIT_TITLES[row.split].lower()} level {row.level} ({row.facts:,} facts{after})"


def _names(edges: list[float]) -> list[str]:
    """Return the bands in words, from the lowest."""
    texts = [f"{edge:g}".replace("-", "−") for edge in edges]
    if not texts:
        return ["all"]
    middle = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"below {texts[0]}", *middle, f"from {texts[-1]}"]


def _listed(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)
