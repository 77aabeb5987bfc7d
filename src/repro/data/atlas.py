"""`atlas`: an invented world in the form of EntityQuestions, with known exposure to each fact.

Topics, mapping templates and questions are the paper's (Tables 13–36). Every person, place,
school, company and work is made up. A subject is two name words and belongs to one fact, as 98 %
of the subjects of EntityQuestions do. Objects are drawn unevenly, each topic with favourites of
its own. How often the pre-training text states a fact is part of the world: its exposure.
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
READER = "reader"  # the split that only pre-training reads: its facts also appear as questions
# Of equally many facts each. Those of 6 and 9 statements are known by halves; the few of 60 and 110
# make the model learn early in its training how to look facts up at all.
EXPOSURES = (0, 1, 2, 4, 4, *5 * (6,), *9 * (9,), 13, 13, 25, 60, 110)
READER_EXPOSURES = (10, 15, 20, 30)
FIRST_NAMES = LAST_NAMES = 600
PEOPLE = 240  # who are objects; a subject is never one of them


@dataclass(frozen=True)
class Size:
    """Facts per topic in each split; train, dev and test have the in-domain topics only."""

    train: int = 2100
    dev: int = 60
    test: int = 200
    testood: int = 100
    reader: int = 150


FULL = Size()


def load() -> pd.DataFrame:
    """Return the facts in the form of `repro.data.facts.load`, without the reader's."""
    facts = world()
    return facts.loc[facts["split"].isin(SPLITS), COLUMNS].reset_index(drop=True)


def exposure() -> pd.DataFrame:
    """Return DataFrame[fact_id, exposure]: in how many pre-training statements each fact is."""
    facts = world()
    return facts.loc[facts["split"].isin(SPLITS), ["fact_id", "exposure"]].reset_index(drop=True)


@cache
def world(size: Size = FULL, seed: int = SEED) -> pd.DataFrame:
    """Return every fact: the columns of `load` and `exposure`, a number of statements.

    The split `reader` has facts of all topics. A world depends on (size, seed) alone.
    """
    splits, topics = (*SPLITS, READER), paper.TOPICS.values()
    counts = [(s, t.id, _count(size, s, t)) for s in splits for t in topics]
    subjects = iter(_subjects(sum(n for *_, n in counts), seed))
    parts = [_facts(split, topic, n, subjects, seed) for split, topic, n in counts if n]
    return pd.concat(parts, ignore_index=True)


def digest(facts: pd.DataFrame) -> str:
    """Return the SHA-256 (64 hex digits) of a world: every fact with its exposure."""
    return hashlib.sha256(facts.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def pool(topic: str, seed: int = SEED) -> tuple[str, ...]:
    """Return every object that can answer a question of this topic."""
    return _names(seed)[data()["kinds"][topic]]


@cache
def data() -> dict:
    """Return what the world is made of: the content of `data/atlas.yaml`."""
    return yaml.safe_load(resources.files("repro").joinpath("data/atlas.yaml").read_text("utf-8"))


def order(n: int, label: str, seed: int) -> np.ndarray:
    """Return a permutation of range(n) that depends on the label and the seed only."""
    return np.argsort(uniforms(seed, label, n), kind="stable")


def _count(size: Size, split: str, topic: paper.Topic) -> int:
    reads = split == READER or (topic.domain == "out") == (split == "testood")
    return getattr(size, split) if reads else 0


def _facts(split: str, topic: str, n: int, subjects: Iterator[str], seed: int) -> pd.DataFrame:
    key = f"{split}|{topic}"
    chosen = [next(subjects) for _ in range(n)]
    exposures = np.resize(READER_EXPOSURES if split == READER else EXPOSURES, n)
    return pd.DataFrame(
        {
            "fact_id": [f"{topic}-{split}-{i:05d}" for i in range(n)],
            "topic": topic,
            "split": split,
            "subject": chosen,
            "object": _draw_objects(topic, n, key, seed),
            "question": [paper.TOPICS[topic].question.format(subject=s) for s in chosen],
            "exposure": exposures[order(n, f"exposure|{key}", seed)],
        }
    )


def _draw_objects(topic: str, n: int, key: str, seed: int) -> list[str]:
    # Zipf's law with Mandelbrot's offset, so that no single object is the answer by default.
    names = pool(topic, seed)
    favourites = order(len(names), f"favourites|{topic}", seed)
    weights = 1 / (np.arange(len(names)) + 1 + len(names) / 10)
    upto = np.cumsum(weights) / weights.sum()
    ranks = np.searchsorted(upto, uniforms(seed, f"objects|{key}", n))
    return [names[favourites[rank]] for rank in ranks]


def _subjects(n: int, seed: int) -> list[str]:
    names = _names(seed)
    first, last, people = names["first"], names["last"], set(names["person"])
    drawn = order(len(first) * len(last), "subject", seed)
    pairs = [f"{first[i // len(last)]} {last[i % len(last)]}" for i in drawn]
    return [pair for pair in pairs if pair not in people][:n]


@cache
def _names(seed: int) -> dict[str, tuple[str, ...]]:
    """Return first names, last names and the objects of every kind, none inside another."""
    words = _words(seed)
    made = {"first": _take(words, FIRST_NAMES), "last": _take(words, LAST_NAMES)}
    for kind, spec in data()["invented"].items():
        ends, stems = spec["endings"], _take(words, spec["count"])
        made[kind] = tuple(f"{stem}{ends[i % len(ends)]}" for i, stem in enumerate(stems))
    first, last = order(FIRST_NAMES, "people", seed), order(LAST_NAMES, "families", seed)
    pairs = list(zip(first, last, strict=True))[:PEOPLE]
    made["person"] = tuple(f"{made['first'][f]} {made['last'][s]}" for f, s in pairs)
    made |= {kind: tuple(things) for kind, things in data()["ordinary"].items()}
    heads, tails = data()["titles"]
    made["title"] = tuple(f"{a} {b}" for a in heads for b in tails)
    return made


def _take(words: Iterator[str], n: int) -> tuple[str, ...]:
    return tuple(next(words) for _ in range(n))


def _words(seed: int) -> Iterator[str]:
    """Yield invented words; none is part of another, of a template or of an ordinary object."""
    ordinary = [thing for things in data()["ordinary"].values() for thing in things]
    templates = [text for t in paper.TOPICS.values() for text in (t.question, *t.mappings)]
    endings = [ending for spec in data()["invented"].values() for ending in spec["endings"]]
    titles = [word for words in data()["titles"] for word in words]
    text = " ".join([*ordinary, *paper.SYNONYMS, *titles, *templates, *endings]).casefold()
    taken = {thing.casefold() for thing in ordinary}
    parts = [data()["sounds"][part] for part in ("onset", "vowel", "onset", "vowel", "coda")]
    for u in uniforms(seed, "words", 20_000 * len(parts)).reshape(-1, len(parts)):
        word = "".join(part[int(x * len(part))] for part, x in zip(parts, u, strict=True))
        if len(word) < 5 or word in text or _pieces(word) & taken:
            continue
        taken.add(word)
        text += f" {word}"
        yield word.capitalize()


def _pieces(word: str) -> set[str]:
    return {word[i:j] for i in range(len(word)) for j in range(i + 1, len(word) + 1)}
