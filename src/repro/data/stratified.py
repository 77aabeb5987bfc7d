"""Facts chosen by their score: drawn within topic and score band, each with a known probability.

A small model knows few facts, so facts drawn at random would leave the high levels of mastery
empty. Here a cheap score divides the candidates into bands; from each band a fixed number of facts
is drawn, balanced over topics. The levels fill more evenly, and because the probability of every
fact to be drawn is known, the distribution over all facts can still be estimated (Horvitz and
Thompson): a fact that was drawn with probability p stands for 1 / p facts.

Candidates may be all facts of a split, or a random part of each topic (sampling in two phases).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from repro import random_streams
from repro.data.facts import balanced
from repro.errors import ConfigError
from repro.paper import LEVELS
from repro.statistics.intervals import wilson

CELL = 2  # facts drawn of each topic and band, at least: one alone says nothing of the variance


def bands(scores: Sequence[float], edges: Sequence[float]) -> np.ndarray:
    """Return the band of each score, int: 0 below the first edge, len(edges) from the last on.

    Raises ConfigError for edges that do not rise.
    """
    if not np.all(np.diff(edges) > 0):
        raise ConfigError(f"the edges of score bands must rise, not {list(edges)}")
    return np.searchsorted(np.asarray(edges, float), np.asarray(scores, float), side="right")


def draw(candidates: pd.DataFrame, counts: Sequence[int], seed: int) -> pd.DataFrame:
    """Draw a number of facts from each band, balanced over its topics.

    Args:
        candidates: DataFrame[fact_id, topic, band, …] of one split.
        counts: facts to draw of each band, from the lowest; where a band has fewer, all of them.
        seed: which facts depends on (seed, fact_id) only, not on the order of rows.

    Returns:
        The rows drawn, ordered by fact_id.

    Raises:
        ConfigError: counts that are too few for the bands or their topics.
    """
    if candidates["band"].max() >= len(counts):
        raise ConfigError(f"{len(counts)} counts for {candidates['band'].max() + 1} score bands")
    names = [f"stratified|{fact_id}" for fact_id in candidates["fact_id"]]
    ordered = candidates.assign(order=random_streams.rows(seed, names, 1)[:, 0])
    ordered = ordered.sort_values(["order", "fact_id"])
    place = ordered.groupby(["band", "topic"]).cumcount()
    parts = [candidates.iloc[:0]]
    for band, rows in ordered.groupby("band"):
        taken = _taken(rows["topic"], counts[band], band)
        parts.append(rows[place[rows.index] < rows["topic"].map(taken)].drop(columns="order"))
    return pd.concat(parts).sort_values("fact_id", ignore_index=True)


def _taken(topics: pd.Series, count: int, band: int) -> dict[str, int]:
    """Return how many facts of each topic to draw from one band."""
    sizes = topics.value_counts().to_dict()
    least = sum(min(CELL, size) for size in sizes.values())
    if count < least:
        raise ConfigError(
            f"{count} facts of score band {band} are too few: its {len(sizes)} topics need"
            f" {CELL} each, {least} together"
        )
    return balanced(sizes, min(count, len(topics)))


@dataclass(frozen=True)
class Cells:
    """How many facts there are of each topic and band, int (topics, bands).

    `topics` names the rows; `population` (topics,) counts the whole split, `candidates` what was
    scored, `drawn` what was chosen.
    """

    topics: list[str]
    population: np.ndarray
    candidates: np.ndarray
    drawn: np.ndarray

    @property
    def inclusion(self) -> np.ndarray:
        """The probability with which a fact was drawn, in (0, 1]; 0 in an empty cell."""
        scored = self.candidates.sum(1) / self.population
        share = self.drawn / np.maximum(self.candidates, 1)
        return scored[:, None] * share


def cells(drawn: pd.DataFrame, candidates: pd.DataFrame, population: Mapping[str, int]) -> Cells:
    """Count the facts of each topic and band.

    Args:
        drawn: DataFrame[topic, band, …].
        candidates: DataFrame[topic, band, …], what was drawn from.
        population: facts of each topic in the whole split.
    """
    topics = sorted(candidates["topic"].unique())
    number = int(candidates["band"].max()) + 1
    sizes = np.array([population[topic] for topic in topics])
    counts = [_count(frame, topics, number) for frame in (candidates, drawn)]
    return Cells(topics, sizes, *counts)


def _count(frame: pd.DataFrame, topics: list[str], number: int) -> np.ndarray:
    """Return the rows of a frame by topic and band, (topics, bands)."""
    places = np.searchsorted(topics, frame["topic"]), frame["band"].to_numpy()
    table = np.zeros((len(topics), number), int)
    np.add.at(table, places, 1)
    return table


def weights(
    drawn: pd.DataFrame, candidates: pd.DataFrame, population: Mapping[str, int]
) -> np.ndarray:
    """Return how many facts each drawn fact stands for, 1 / p, float (rows of `drawn`).

    Arguments as in `cells`. Within a split the weights add up to its number of facts.
    """
    counted = cells(drawn, candidates, population)
    places = np.searchsorted(counted.topics, drawn["topic"])
    return 1 / counted.inclusion[places, drawn["band"].to_numpy()]


def estimate(
    drawn: pd.DataFrame, candidates: pd.DataFrame, population: Mapping[str, int]
) -> pd.DataFrame:
    """Estimate the share of each level of mastery among all facts of a split.

    The estimate is that of Horvitz and Thompson. Its variance is that of sampling in two phases:
    of the candidates within a topic, and of the drawn facts within a topic and band, where the
    variance of a cell is taken from its whole band. The 95 % interval is Wilson's with as many
    facts as would give this variance.

    Args:
        drawn: DataFrame[topic, band, level, …].
        candidates: DataFrame[topic, band, …], what was drawn from.
        population: facts of each topic in the whole split.

    Returns:
        DataFrame[level, drawn (facts), share, low, high (in percent)], a row for every level.
    """
    counted = cells(drawn, candidates, population)
    weights = 1 / np.repeat(counted.inclusion.ravel(), counted.drawn.ravel())
    rows = []
    for level in LEVELS:
        hits = _count(drawn[drawn["level"] == level], counted.topics, counted.drawn.shape[1])
        share, variance = _mean(hits, counted)
        low, high = _interval(share, variance, weights)
        rows.append((level, int(hits.sum()), 100 * share, 100 * low, 100 * high))
    return pd.DataFrame(rows, columns=["level", "drawn", "share", "low", "high"])


def _mean(hits: np.ndarray, counted: Cells) -> tuple[float, float]:
    """Return the estimated share of facts that are hits, and its variance; `hits` by cell."""
    scored, chosen = counted.candidates, np.maximum(counted.drawn, 1)
    of_topic = scored.sum(1)
    topic = counted.population / counted.population.sum()  # share of all facts
    cell = scored / of_topic[:, None]  # share of the topic's facts
    means = hits / chosen
    of_topics = (cell * means).sum(1)
    # Of a cell's few facts a variance says little, so that of the band is taken.
    band = (scored * means).sum(0) / np.maximum(scored.sum(0), 1)
    lost = np.where(scored > 0, 1 / chosen - 1 / np.maximum(scored, 1), 0)
    second = (cell**2 * band * (1 - band) * lost).sum(1)
    first = of_topics * (1 - of_topics) * (1 / of_topic - 1 / counted.population)
    return float(topic @ of_topics), float(topic**2 @ (first + second))


def _interval(share: float, variance: float, weights: np.ndarray) -> tuple[float, float]:
    """Return (low, high) of a share: Wilson's interval with the number of facts that fits."""
    if np.allclose(weights, 1):  # every fact was measured
        return share, share
    if variance > 0:
        size = share * (1 - share) / variance
    else:  # nothing or everything is a hit: the facts are worth as many unweighted ones
        size = weights.sum() ** 2 / (weights**2).sum()
    low, high = wilson(share * size, size)
    return min(float(low), share), max(float(high), share)  # rounding can pass a share of 0 or 1
