"""Stratified drawing of facts: by topic and by band of a score, with known probabilities.

A small model knows few facts, so facts drawn at random would leave the high levels of mastery
empty. Instead,

1. every candidate gets a score, which is cheap to compute (`repro.measures.scores`);
2. the scores are divided into bands;
3. a fixed number of facts is drawn from each band, balanced over topics.

So the levels fill more evenly. The probability with which each fact is drawn is known, so the
distribution over all facts can still be estimated (Horvitz and Thompson): a fact that is drawn with
probability p stands for 1 / p facts.

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

CELL = 2  # fewest facts drawn of each topic and band: a variance needs at least two


def bands(scores: Sequence[float], edges: Sequence[float]) -> np.ndarray:
    """Return the band of each score: 0 below the first edge, len(edges) from the last edge on.

    Raises:
        ConfigError: the edges do not rise.
    """
    if not np.all(np.diff(edges) > 0):
        raise ConfigError(f"the edges of score bands must rise, not {list(edges)}")
    return np.searchsorted(np.asarray(edges, float), np.asarray(scores, float), side="right")


def draw(candidates: pd.DataFrame, counts: Sequence[int], seed: int) -> pd.DataFrame:
    """Draw a number of facts from each band, balanced over its topics.

    Args:
        candidates: DataFrame[fact_id, topic, band, …] of one split.
        counts: facts to draw from each band, the lowest first; from a band with fewer, all of them.
        seed: of the random order. The facts drawn depend on (seed, fact_id) only, not on the order
            of rows.

    Returns:
        The rows drawn, sorted by fact_id.

    Raises:
        ConfigError: there are fewer counts than bands, or a count is too small for its topics.
    """
    if candidates["band"].max() >= len(counts):
        raise ConfigError(f"{len(counts)} counts for {candidates['band'].max() + 1} score bands")
    # Each fact gets a random number; of each topic and band the facts with the lowest are drawn.
    names = [f"stratified|{fact_id}" for fact_id in candidates["fact_id"]]
    ordered = candidates.assign(order=random_streams.rows(seed, names, 1)[:, 0])
    ordered = ordered.sort_values(["order", "fact_id"])
    rank = ordered.groupby(["band", "topic"]).cumcount()
    parts = [candidates.iloc[:0]]
    for band, rows in ordered.groupby("band"):
        number = rows["topic"].map(_numbers_by_topic(rows["topic"], counts[band], band))
        parts.append(rows[rank[rows.index] < number].drop(columns="order"))
    return pd.concat(parts).sort_values("fact_id", ignore_index=True)


def _numbers_by_topic(topics: pd.Series, count: int, band: int) -> dict[str, int]:
    """Return how many facts of each topic to draw from one band.

    `topics` are those of the facts of the band.
    """
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
    """The numbers of facts of each topic and band.

    Attributes:
        topics: the topic of each row.
        population: (topics,), all facts of the split.
        candidates: (topics, bands), the facts that were scored.
        drawn: (topics, bands), the facts that were drawn.
    """

    topics: list[str]
    population: np.ndarray
    candidates: np.ndarray
    drawn: np.ndarray

    @property
    def inclusion(self) -> np.ndarray:
        """The probability with which a fact was drawn, (topics, bands); 0 in an empty cell.

        It is the probability to be a candidate times that to be drawn from the candidates.
        """
        scored = self.candidates.sum(1) / self.population
        drawn = self.drawn / np.maximum(self.candidates, 1)
        return scored[:, None] * drawn


def cells(drawn: pd.DataFrame, candidates: pd.DataFrame, population: Mapping[str, int]) -> Cells:
    """Count the facts of each topic and band.

    Args:
        drawn: DataFrame[topic, band, …], the facts drawn.
        candidates: DataFrame[topic, band, …], the facts from which they were drawn.
        population: number of facts of each topic in the whole split.
    """
    topics = sorted(candidates["topic"].unique())
    number = int(candidates["band"].max()) + 1
    sizes = np.array([population[topic] for topic in topics])
    counts = [_count(frame, topics, number) for frame in (candidates, drawn)]
    return Cells(topics, sizes, *counts)


def _count(frame: pd.DataFrame, topics: list[str], number: int) -> np.ndarray:
    """Return the number of rows of a frame by topic and band: (topics, number of bands)."""
    cells_of_rows = np.searchsorted(topics, frame["topic"]), frame["band"].to_numpy()
    table = np.zeros((len(topics), number), int)
    np.add.at(table, cells_of_rows, 1)
    return table


def weights(
    drawn: pd.DataFrame, candidates: pd.DataFrame, population: Mapping[str, int]
) -> np.ndarray:
    """Return how many facts each drawn fact stands for, 1 / p: (rows of `drawn`,).

    The arguments are those of `cells`. The weights of a split add up to its number of facts.
    """
    counts = cells(drawn, candidates, population)
    rows = np.searchsorted(counts.topics, drawn["topic"])
    return 1 / counts.inclusion[rows, drawn["band"].to_numpy()]


def estimate(
    drawn: pd.DataFrame, candidates: pd.DataFrame, population: Mapping[str, int]
) -> pd.DataFrame:
    """Estimate the share of each level of mastery among all facts of a split.

    The estimate is that of Horvitz and Thompson. Its variance is that of sampling in two phases:
    candidates are drawn within a topic, and facts within a topic and band (a cell). The variance
    within a cell is taken from its whole band. The 95 % interval is Wilson's, with the number of
    facts that would have this variance if they were drawn at random.

    Args:
        drawn: DataFrame[topic, band, level, …], the facts drawn.
        candidates: DataFrame[topic, band, …], the facts from which they were drawn.
        population: number of facts of each topic in the whole split.

    Returns:
        DataFrame[level, drawn (facts), share, low, high (in percent)], a row for every level.
    """
    counts = cells(drawn, candidates, population)
    weights = 1 / np.repeat(counts.inclusion.ravel(), counts.drawn.ravel())
    rows = []
    for level in LEVELS:
        hits = _count(drawn[drawn["level"] == level], counts.topics, counts.drawn.shape[1])
        share, variance = _mean(hits, counts)
        low, high = _interval(share, variance, weights)
        rows.append((level, int(hits.sum()), 100 * share, 100 * low, 100 * high))
    return pd.DataFrame(rows, columns=["level", "drawn", "share", "low", "high"])


def _mean(hits: np.ndarray, counts: Cells) -> tuple[float, float]:
    """Return the estimated share of facts that are hits, and the variance of the estimate.

    Args:
        hits: (topics, bands), the drawn facts that are hits.
        counts: all facts of each topic and band.
    """
    candidates, drawn = counts.candidates, np.maximum(counts.drawn, 1)
    candidates_of_topic = candidates.sum(1)
    topic_weight = counts.population / counts.population.sum()  # share of all facts
    cell_weight = candidates / candidates_of_topic[:, None]  # share of the topic's facts
    # The estimate: the mean of each cell, weighted by the cell's share of all facts.
    cell_mean = hits / drawn
    topic_mean = (cell_weight * cell_mean).sum(1)
    # The second phase, candidates to drawn facts. The few facts of a cell tell little about its
    # variance, so that of the whole band is taken, with the correction for a finite population.
    band_mean = (candidates * cell_mean).sum(0) / np.maximum(candidates.sum(0), 1)
    finite = np.where(candidates > 0, 1 / drawn - 1 / np.maximum(candidates, 1), 0)
    second = (cell_weight**2 * band_mean * (1 - band_mean) * finite).sum(1)
    # The first phase, all facts to candidates.
    first = topic_mean * (1 - topic_mean) * (1 / candidates_of_topic - 1 / counts.population)
    return float(topic_weight @ topic_mean), float(topic_weight**2 @ (first + second))


def _interval(share: float, variance: float, weights: np.ndarray) -> tuple[float, float]:
    """Return (low, high): Wilson's interval with the number of facts that fits the variance."""
    if np.allclose(weights, 1):  # every fact was measured
        return share, share
    if variance > 0:
        size = share * (1 - share) / variance
    else:  # no fact or every fact is a hit: Kish's effective number of facts
        size = weights.sum() ** 2 / (weights**2).sum()
    low, high = wilson(share * size, size)
    # A share of 0 or 1 is an end of its interval, which rounding may move past it.
    return min(float(low), share), max(float(high), share)
