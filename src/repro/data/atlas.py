"""`atlas`: an invented world in the form of EntityQuestions, with known exposure to each fact.

Topics, mapping templates and questions are the paper's (Tables 13–36). Every person, place,
school, company and work is invented. A subject is two words and belongs to one fact, as 98 % of the
subjects of EntityQuestions do. Objects are drawn unevenly, so each topic has objects that are
frequent answers. The exposure of a fact is the number of times that the pre-training text states
it; it is a part of the world.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd
import yaml

from repro import paper
from repro.data.facts import COLUMNS
from repro.paper import SPLITS
from repro.random_streams import uniforms

SEED = 0
READER = "reader"  # a split for pre-training only: its facts also appear as questions
# Numbers of statements, each given to equally many facts. Facts of 6 and 9 statements are known
# about half of the time. The few facts of 60 and 110 make the model learn early in its training how
# to look a fact up at all.
EXPOSURES = (0, 1, 2, 4, 4, *5 * (6,), *9 * (9,), 13, 13, 25, 60, 110)
READER_EXPOSURES = (10, 15, 20, 30)
FIRST_NAMES = LAST_NAMES = 600
PEOPLE = 240  # people who are objects; they are never subjects


@dataclass(frozen=True)
class Size:
    """Facts per topic in each split. Train, dev and test have the in-domain topics only."""

    train: int = 2100
    dev: int = 60
    test: int = 200
    testood: int = 100
    reader: int = 150


FULL = Size()


def load() -> pd.DataFrame:
    """Return the facts in the form of `repro.data.facts.load`, without the split `reader`."""
    facts = world()
    return facts.loc[facts["split"].isin(SPLITS), COLUMNS].reset_index(drop=True)


def exposure() -> pd.DataFrame:
    """Return DataFrame[fact_id, exposure], the number of pre-training statements of each fact."""
    facts = world()
    return facts.loc[facts["split"].isin(SPLITS), ["fact_id", "exposure"]].reset_index(drop=True)


@cache
def world(size: Size = FULL, seed: int = SEED) -> pd.DataFrame:
    """Return every fact with its exposure: the columns of `load`, and `exposure`.

    The split `reader` has facts of all topics. A world depends on (size, seed) only.
    """
    splits, topics = (*SPLITS, READER), paper.TOPICS.values()
    counts = [(split, topic.id, _count(size, split, topic)) for split in splits for topic in topics]
    subjects = iter(_subjects(sum(n for *_, n in counts), seed))
    parts = [_facts(split, topic, n, subjects, seed) for split, topic, n in counts if n]
    return pd.concat(parts, ignore_index=True)


def digest(facts: pd.DataFrame) -> str:
    """Return the SHA-256 (64 hex digits) of a world: every fact with its exposure."""
    return hashlib.sha256(facts.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def pool(topic: str, seed: int = SEED) -> tuple[str, ...]:
    """Return all objects that can answer a question of this topic."""
    return _names(seed)[data()["kinds"][topic]]


@cache
def data() -> dict:
    """Return the sounds, endings and ordinary objects of the world: `data/atlas.yaml`."""
    return yaml.safe_load(resources.files("repro").joinpath("data/atlas.yaml").read_text("utf-8"))


def order(n: int, label: str, seed: int) -> np.ndarray:
    """Return a permutation of range(n) that depends on the label and the seed only."""
    return np.argsort(uniforms(seed, label, n), kind="stable")


def _count(size: Size, split: str, topic: paper.Topic) -> int:
    """Return the number of facts of a topic in a split; 0 if the split has not this topic."""
    has_topic = split == READER or (topic.domain == "out") == (split == "testood")
    return getattr(size, split) if has_topic else 0


def _facts(split: str, topic: str, n: int, subjects: Iterator[str], seed: int) -> pd.DataFrame:
    """Return the `n` facts of a topic in a split, about the next `n` subjects."""
    key = f"{split}|{topic}"
    names = [next(subjects) for _ in range(n)]
    exposures = np.resize(READER_EXPOSURES if split == READER else EXPOSURES, n)
    return pd.DataFrame(
        {
            "fact_id": [f"{topic}-{split}-{i:05d}" for i in range(n)],
            "topic": topic,
            "split": split,
            "subject": names,
            "object": _draw_objects(topic, n, key, seed),
            "question": [paper.TOPICS[topic].question.format(subject=s) for s in names],
            "exposure": exposures[order(n, f"exposure|{key}", seed)],
        }
    )


def _draw_objects(topic: str, n: int, key: str, seed: int) -> list[str]:
    """Return `n` objects of a topic, drawn by Zipf's law with Mandelbrot's offset.

    The offset makes the most frequent object less frequent, so that no object is the answer by
    default.
    """
    names = pool(topic, seed)
    by_frequency = order(len(names), f"favourites|{topic}", seed)
    weights = 1 / (np.arange(len(names)) + 1 + len(names) / 10)
    cumulative = np.cumsum(weights) / weights.sum()
    ranks = np.searchsorted(cumulative, uniforms(seed, f"objects|{key}", n))
    return [names[by_frequency[rank]] for rank in ranks]


def _subjects(n: int, seed: int) -> list[str]:
    """Return `n` names of two words, in random order; none is a person who is an object."""
    names = _names(seed)
    first, last, people = names["first"], names["last"], set(names["person"])
    drawn = order(len(first) * len(last), "subject", seed)
    pairs = [f"{first[i // len(last)]} {last[i % len(last)]}" for i in drawn]
    return [pair for pair in pairs if pair not in people][:n]


@cache
def _names(seed: int) -> dict[str, tuple[str, ...]]:
    """Return first names, last names and the objects of every kind, by kind.

    No name is a part of another.
    """
    words = _words(seed)
    names = {"first": _take(words, FIRST_NAMES), "last": _take(words, LAST_NAMES)}
    for kind, spec in data()["invented"].items():
        endings, stems = spec["endings"], _take(words, spec["count"])
        names[kind] = tuple(f"{stem}{endings[i % len(endings)]}" for i, stem in enumerate(stems))
    first, last = order(FIRST_NAMES, "people", seed), order(LAST_NAMES, "families", seed)
    pairs = list(zip(first, last, strict=True))[:PEOPLE]
    names["person"] = tuple(f"{names['first'][i]} {names['last'][j]}" for i, j in pairs)
    names |= {kind: tuple(objects) for kind, objects in data()["ordinary"].items()}
    beginnings, ends = data()["titles"]
    names["title"] = tuple(f"{beginning} {end}" for beginning in beginnings for end in ends)
    return names


def _take(words: Iterator[str], n: int) -> tuple[str, ...]:
    return tuple(next(words) for _ in range(n))


def _words(seed: int) -> Iterator[str]:
    """Yield invented words; none is a part of another, of a template or of an ordinary object."""
    ordinary = [name for names in data()["ordinary"].values() for name in names]
    templates = [text for t in paper.TOPICS.values() for text in (t.question, *t.mappings)]
    endings = [ending for spec in data()["invented"].values() for ending in spec["endings"]]
    titles = [word for words in data()["titles"] for word in words]
    text = " ".join([*ordinary, *paper.SYNONYMS, *titles, *templates, *endings]).casefold()
    used = {name.casefold() for name in ordinary}
    parts = [data()["sounds"][part] for part in ("onset", "vowel", "onset", "vowel", "coda")]
    for u in uniforms(seed, "words", 20_000 * len(parts)).reshape(-1, len(parts)):
        word = "".join(part[int(x * len(part))] for part, x in zip(parts, u, strict=True))
        if len(word) < 5 or word in text or _substrings(word) & used:
            continue
        used.add(word)
        text += f" {word}"
        yield word.capitalize()


def _substrings(word: str) -> set[str]:
    return {word[i:j] for i in range(len(word)) for j in range(i + 1, len(word) + 1)}
