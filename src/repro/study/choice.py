"""Chooses the facts of a study by their score, if its profile has `choose` (profiles.yaml).

The pre-trained model scores the candidates, which gives a record of its own. From each score band a
number of facts is drawn (`repro.data.stratified`). Mastery and all later records are measured on
these facts. So the keys of the study contain the key of the score record and a digest of the facts
drawn.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from repro import paper
from repro.data import facts, stratified
from repro.measures import scores
from repro.models.registry import ModelEntry
from repro.study import number_format, records
from repro.study.number_format import NumberFormat
from repro.study.profiles import Profile
from repro.study.requests import Request, finished, source

if TYPE_CHECKING:  # it imports this module
    from repro.study.study import Study

KIND = "score"


class Choice:
    """The choice of the facts of one study, before and after they are scored."""

    def __init__(
        self, model: ModelEntry, profile: Profile, data: Path | None, seed: int, dtype: str | None
    ):
        """Take the parts of a study. The profile has `choose`."""
        self.model, self.profile, self.data, self.seed = model, profile, data, seed
        self.dtype, self.settings = dtype, dict(profile.choose or {})
        self.candidates: dict = self.settings["candidates"]  # facts scored, by split
        self.edges = self.settings["edges"]
        self.protocol = scores.ScoreProtocol(tuple(self.settings["templates"]))

    def request(self) -> Request:
        """Request the scores."""
        return Request(KIND, self._unformatted | self.number_format.parameters)

    @cached_property
    def number_format(self) -> NumberFormat:
        """The number format of the study: that of the scores, which are its first record."""
        return number_format.choose(self.model, KIND, self._unformatted, self.dtype)

    @cached_property
    def _unformatted(self) -> dict:
        """The parameters of the scores without the number format."""
        shared = source(self.model, self.profile, self.data, self.seed)
        del shared["facts"]
        protocol = {"templates": list(self.protocol.templates)}
        return {**shared, "candidates": self.candidates, "protocol": protocol}

    def to_score(self) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
        """Return the candidates, and the number of all facts by split and topic."""
        loaded = self._loaded
        counts = loaded.groupby(["split", "topic"]).size()
        population = {split: counts[split].to_dict() for split in self.candidates}
        return facts.select(loaded, self.candidates, self.seed), population

    def drawn(self, record: records.Record) -> pd.DataFrame:
        """Return the facts that were drawn from the scored ones: fact_id, topic, split, band."""
        scored = self.scored(record)
        parts = [
            stratified.draw(scored[scored["split"] == split], self.profile.facts[split], self.seed)
            for split in self.candidates
        ]
        return pd.concat(parts, ignore_index=True)

    def scored(self, record: records.Record) -> pd.DataFrame:
        """Return the candidates with their scores: fact_id, topic, split, score, band."""
        table = scores.add_score(records.load_table(record))
        table["band"] = stratified.bands(table["score"], self.edges)
        return table[["fact_id", "topic", "split", "score", "band"]]

    def parameters(self, record: records.Record | None) -> dict:
        """Return the part of the choice in the parameters of all later records.

        Without a score record, as when a study is planned, the facts drawn are unknown. No record
        has such parameters.
        """
        settings = {"choose": {**self.settings}}
        if record is None:
            return settings | {"score": None}
        ids = "\n".join(self.drawn(record)["fact_id"])
        digest = hashlib.sha256(ids.encode()).hexdigest()[:16]
        return settings | {"score": record.key, "drawn": digest}

    def selected(self, record: records.Record) -> pd.DataFrame:
        """Return the facts that are measured, in the form of `repro.data.facts.load`.

        Splits without candidates are drawn at random, as in any other study.
        """
        plain = [split for split in paper.SPLITS if split not in self.candidates]
        counts = {split: self.profile.facts[split] for split in plain}
        at_random = facts.select(self._loaded, counts, self.seed)
        facts_by_id = self._loaded.set_index("fact_id", drop=False)
        by_score = facts_by_id.loc[self.drawn(record)["fact_id"]]
        return pd.concat([by_score, at_random], ignore_index=True)

    def split_sizes(self) -> dict[str, int]:
        """Return the largest number of facts of each split, which is known before scoring."""
        return {split: self.profile.number_of_facts(split) for split in paper.SPLITS}

    def estimate(self, mastery: pd.DataFrame, record: records.Record) -> pd.DataFrame:
        """Estimate the distribution of levels over all facts of each split (Tables 1 and 8).

        Args:
            mastery: DataFrame[fact_id, split, level, …] of the facts drawn.
            record: of the scores.

        Returns:
            DataFrame[split, level, drawn (facts), share, low, high]: shares in percent with their
            95 % interval. A split whose facts were not chosen by score has no row.
        """
        scored, parts = self.scored(record), []
        for split in self.candidates:
            candidates = scored[scored["split"] == split]
            levels = mastery.loc[mastery["split"] == split, ["fact_id", "level"]]
            drawn = candidates.merge(levels, on="fact_id", validate="1:1")
            table = stratified.estimate(drawn, candidates, record.result["population"][split])
            parts.append(table.assign(split=split))
        columns = ["split", "level", "drawn", "share", "low", "high"]
        return pd.concat(parts, ignore_index=True)[columns]

    def weighted(self, mastery: pd.DataFrame, record: records.Record) -> pd.DataFrame:
        """Return every scored fact; those drawn with their level and weight.

        Args:
            mastery: DataFrame[fact_id, level, …] of the facts drawn.
            record: of the scores.

        Returns:
            DataFrame[fact_id, topic, split, score, band, level, weight]. The weight is the number
            of facts that a fact stands for. Facts that were not drawn have neither level nor
            weight.
        """
        levels, parts = mastery[["fact_id", "level"]], []
        for split, candidates in self.scored(record).groupby("split", sort=False):
            drawn = candidates.merge(levels, on="fact_id", validate="1:1")
            population = record.result["population"][split]
            drawn["weight"] = stratified.weights(drawn, candidates, population)
            measured = drawn[["fact_id", "level", "weight"]]
            parts.append(candidates.merge(measured, on="fact_id", how="left", validate="1:1"))
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def _loaded(self) -> pd.DataFrame:
        return facts.load(self.data, world=self.model.facts)


def selected_facts(study: Study) -> pd.DataFrame:
    """Return the facts that a study measures. If they are chosen by score, computes the scores."""
    if study.choice:
        request = study.choice.request()
        study.compute([request])
        [record] = finished([request])
        return study.choice.selected(record)
    loaded = facts.load(study.data, world=study.model.facts)
    return facts.select(loaded, study.requests.source["facts"], study.seed)
