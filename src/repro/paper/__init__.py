"""What the paper publishes, as data: topics and templates, synonyms, and every table.

Nothing here is computed. The topics are those of Tables 13–36, the synonyms those of Table 12. The
tables are tidy: one number per row, percentages as percentages.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources

import pandas as pd

from repro.errors import ConfigError

LEVELS = (0, 1, 2, 3, 4)  # of mastery (§3.1)
SPLITS = ("train", "dev", "test", "testood")  # of the facts
BEST_SIZE = 240  # training facts with which the paper's models are best (Phenomenon 1)
LARGE_SIZE = 1920  # training facts of the large models of Tables 2, 3, 4, 6 and 7
SPLIT_TITLES = {"train": "Training", "dev": "Dev", "test": "In-domain", "testood": "Out-of-domain"}
TABLES: dict[str, tuple[tuple[int, ...], str]] = {
    "distribution": ((1, 8), "Facts per mastery level, five models"),
    "accuracy_1920": ((2,), "Accuracy after fine-tuning on 1,920 facts of one level, LLaMA-3"),
    "concentration": ((3,), "Share of the total change held by the most changed parameters"),
    "restore": ((4,), "Accuracy after restoring a share of the parameters"),
    "tasks": ((5,), "Restoration on summarization (XSum) and mathematics (GSM8K)"),
    "restore_train": ((6,), "Restoration, measured on the training facts"),
    "strategies": ((7,), "Restoration against other ways to fine-tune"),
    "layers": ((9,), "Where the restored parameters lie, by layer"),
    "modules": ((10,), "Where the restored parameters lie, by module"),
    "layer_restore": ((11,), "Accuracy after restoring four layers at a time"),
}


@dataclass(frozen=True, slots=True)
class Topic:
    """One relation of EntityQuestions with its 21 mapping templates (Tables 13–36).

    Attributes:
        id: the relation, such as P17.
        domain: "in" (fine-tuning and test) or "out" (out-of-domain test only).
        table: the number of the paper's table.
        question: the question, with `{subject}` once.
        mappings: the templates, each with `{subject}` once; the object completes them.
    """

    id: str
    domain: str
    table: int
    question: str
    mappings: tuple[str, ...]


def _read(name: str) -> dict:
    return json.loads((resources.files(__name__) / name).read_text(encoding="utf-8"))


# Characters of the dataset and the paper for which a reader types a plain one.
_PLAIN = str.maketrans(
    dict.fromkeys("’‘ʻʼ′", "'")
    | dict.fromkeys("\u00a0\u2007\u2009\u202f", " ")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
)


def plain(text: str) -> str:
    """Return a text of the same length with plain apostrophes, spaces and hyphens."""
    return text.translate(_PLAIN)


def folded(text: str) -> str:
    """Return a text as names are looked for in it (F.1): plain spellings, without case."""
    return plain(text).casefold()


TOPICS: dict[str, Topic] = {
    key: Topic(key, t["domain"], t["table"], t["question"], tuple(t["mappings"]))
    for key, t in _read("topics.json").items()
}

SYNONYMS: dict[str, tuple[str, ...]] = {
    key: tuple(names) for key, names in _read("synonyms.json").items()
}

_BY_PLAIN_NAME = {plain(key): names for key, names in SYNONYMS.items()}


def names(obj: str) -> tuple[str, ...]:
    """Return every accepted name of an object: its synonyms of Table 12, else the object itself.

    The paper prints ’ where the dataset has ', so an entry is found with both. A name with an
    apostrophe is followed by its other spelling; a name with a no-break space, a dash or an ʻokina
    by its plain spelling.
    """
    listed = _BY_PLAIN_NAME.get(plain(obj), (obj,))
    spellings = (s for n in listed for s in (n, plain(n), n.replace("'", "’")))
    return tuple(dict.fromkeys(spellings))


@functools.cache
def _table(name: str) -> pd.DataFrame:
    numbers = "_".join(f"{number:02d}" for number in TABLES[name][0])
    path = resources.files(__name__) / "tables" / f"table{numbers}_{name}.csv"
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file)


def table(name: str) -> pd.DataFrame:
    """Return one published table as a tidy DataFrame, a fresh copy at each call.

    `TABLES` lists the names with the paper's numbers. Columns by table:
    distribution [75 rows]: model, split, level, count;
    accuracy_1920 [120]: model, train_level, split, test_level (text: "0"–"4" and "mean"),
    accuracy, spread;
    concentration [70]: train_size, train_level, top_percent, share_of_change_percent;
    restore [160] and restore_train [30]: split, train_size, train_level, restored_percent,
    accuracy;
    tasks [8]: restored_percent, xsum_rouge1, xsum_rouge2, xsum_rougeL, gsm8k_accuracy;
    strategies [10]: split, strategy, accuracy;
    layers [32]: layer, percent; modules [7]: module, percent;
    layer_restore [40]: train_level, restored_layers, accuracy.
    Accuracies, shares and spreads are in percent. Raises ConfigError for an unknown name.
    """
    if name not in TABLES:
        raise ConfigError(f"the paper has no table {name!r}; there are: {', '.join(TABLES)}")
    return _table(name).copy()
