"""The facts of a world as a table, and how facts are drawn from it (§3.1).

The world is EntityQuestions, of which the paper studies 97,112 facts, or the invented `atlas`, on
which the bundled models were pre-trained. Fine-tuning and the in-domain test use the ten location
topics; the split `testood` has the other fourteen.
"""

import hashlib
import json
import numbers
import os
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path

import pandas as pd

from repro import paper
from repro.data import entityquestions
from repro.errors import ConfigError, DataError, TrainingError
from repro.files import cache_dir, cause_in_git, is_whole, read_regular, user_path
from repro.paper import SPLITS

WORLDS = ("entityquestions", "atlas")
COLUMNS = ["fact_id", "topic", "split", "subject", "object", "question"]
# split → (folder in the dataset, domain of its topics)
_SOURCES = {
    "train": ("train", "in"),
    "dev": ("dev", "in"),
    "test": ("test", "in"),
    "testood": ("test", "out"),
}


def _given_folder(data: Path | None) -> Path | None:
    """Return the user's folder, from the argument or `REPRO_DATA`; None: the dataset is fetched."""
    data = data or os.environ.get("REPRO_DATA")
    if not data:
        return None
    folder = user_path(data)
    if not folder.is_dir():
        raise DataError(
            f"the data folder {folder} does not exist; give REPRO_DATA (or the argument) a "
            "folder that holds train/, dev/ and test/, or unset it to download EntityQuestions"
        )
    return folder


def _files(folder: Path) -> Iterator[tuple[str, str, str, Path]]:
    """Yield (split, raw split, topic, path) of the files that exist, in the paper's order."""
    for split, (raw, domain) in _SOURCES.items():
        for topic in paper.TOPICS.values():
            paths = (folder / raw / f"{topic.id}.{raw}.json", folder / raw / f"{topic.id}.json")
            existing = next((p for p in paths if p.is_file()), None)
            if topic.domain == domain and existing:
                yield split, raw, topic.id, existing


def _existing_files(folder: Path) -> list[tuple[str, str, str, Path]]:
    """Return the files of `_files`. Raises DataError if there are none, or no access to them."""
    try:
        files = list(_files(folder))
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from None
    if not files:
        raise DataError(
            f"{folder} has no P*.json of the paper's topics in train/, dev/ or test/ "
            "(such as train/P17.train.json)"
        )
    return files


def _read_rows(path: Path) -> list:
    """Return the rows of a file of questions. Raises DataError if it is not a list in JSON."""
    try:
        content = read_regular(path)
        if cause := cause_in_git(content):
            raise DataError(f"{path} {cause}")
        rows = json.loads(content)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is truncated or not JSON ({error}); get the file again") from None
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}, not a list of questions")
    return rows


def _is_question(row: object) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("question"), str)
        and isinstance(row.get("answers"), list)
        and all(isinstance(a, str) and a.strip() for a in row["answers"])
        and all(map(is_whole, (row["question"], *row["answers"])))
    )


def _parse(path: Path, topic: str) -> Iterator[tuple[int, str, str, list[str]]]:
    """Yield (row, question, subject, answers) of every row of one file, each checked."""
    template = paper.TOPICS[topic].question
    before, after = template.split("{subject}")
    for number, row in enumerate(_read_rows(path)):
        if not _is_question(row):
            raise DataError(
                f'{path}, row {number}: expected {{"question": text, "answers": [text, …]}}'
            )
        question = row["question"]
        subject = question.removeprefix(before).removesuffix(after)
        if not subject.strip() or question != before + subject + after:
            raise DataError(
                f"{path}, row {number}: the question {question!r} does not fit the template "
                f"of {topic}, {template!r}"
            )
        yield number, question, subject, row["answers"]


def _is_invented(world: str, data: Path | None) -> bool:
    if world not in WORLDS:
        raise ConfigError(f"unknown world {world!r}: use one of {', '.join(WORLDS)}")
    if world == "atlas" and data is not None:
        raise ConfigError(
            f"{data} would not be used: atlas is made, not read from a folder; leave out --data,"
            " or choose a model that is studied on EntityQuestions"
        )
    return world == "atlas"


def load(
    data: Path | None = None, cache: Path | None = None, world: str = WORLDS[0]
) -> pd.DataFrame:
    """Return the facts of a world: fact_id, topic, split, subject, object, question (§3.1).

    Of EntityQuestions these are the rows with exactly one answer; of identical questions within a
    split and domain only the first. That makes 75,944 train, 9,555 test and 11,613 testood facts,
    the totals of Tables 1 and 8. Topics are in the paper's order.

    Args:
        data: a folder with train/, dev/ and test/, which hold P*.json; topics and splits may be
            missing. By default `REPRO_DATA`, else EntityQuestions is downloaded. `atlas` is in no
            file: it ignores `REPRO_DATA` and refuses a folder.
        cache: folder of the download, by default `cache_dir()`.
        world: `entityquestions` or `atlas`.

    Returns:
        DataFrame of text. `fact_id` is topic-split-row, with the split of the file and the row
        counted from 0 in the file.

    Raises:
        ConfigError: the world is unknown, or does not use a folder.
        DataError: the folder is missing, a file is unreadable, a row is not a question of its
            topic, or the download fails.
        StoreError: the cache cannot be written.
    """
    if _is_invented(world, data):
        from repro.data import atlas  # imported here, because it imports from this module

        return atlas.load()
    folder = _given_folder(data) or entityquestions.fetch(cache or cache_dir())
    seen: dict[str, set[str]] = {split: set() for split in SPLITS}
    facts = []
    for split, raw, topic, path in _existing_files(folder):
        for row, question, subject, answers in _parse(path, topic):
            if len(answers) == 1 and question not in seen[split]:
                seen[split].add(question)
                fact_id = f"{topic}-{raw}-{row:05d}"
                facts.append((fact_id, topic, split, subject, answers[0], question))
    if not facts:
        raise DataError(f"{folder} has no question with exactly one answer")
    return pd.DataFrame(facts, columns=COLUMNS)


@cache
def _atlas_hash() -> str:
    from repro.data import atlas

    return atlas.digest(atlas.world())


def data_hash(folder: Path | None = None, world: str = WORLDS[0]) -> str:
    """Return the SHA-256 (64 hex digits) that identifies the facts in the keys of records.

    For `atlas` it covers every fact and its exposure. For EntityQuestions it covers the sums of the
    files that `load` reads from `folder` (by default `REPRO_DATA`), under their usual names.
    Without a folder it is that of the published EntityQuestions, which need not be present; a
    folder with the same files has the same hash. Unchanged files are not read again.

    Raises:
        DataError: the folder is missing or holds no facts.
        ConfigError: as in `load`.
    """
    if _is_invented(world, folder):
        return _atlas_hash()
    local_folder = _given_folder(folder)
    sums = (
        entityquestions.pinned()
        if local_folder is None
        else {
            f"{raw}/{topic}.{raw}.json": entityquestions.file_sum(path)
            for _, raw, topic, path in _existing_files(local_folder)
        }
    )
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _check_count(n: object) -> None:
    """Raise ConfigError unless a number of facts is a whole number from 0."""
    if isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 0:
        raise ConfigError(f"a number of facts must be a whole number from 0, not {n!r}")


def balanced(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """Return how many of `n` facts to draw from each topic, balanced over topics.

    Each topic gives the same number. If a topic has too few facts, the rest is spread evenly over
    the others; a remainder that cannot be divided goes to the first topics by name. The number of a
    topic never falls when `n` grows.

    Args:
        sizes: number of facts of each topic.
        n: number of facts to draw.

    Raises:
        ConfigError: `n` is below 0, not whole, or more than there are facts.
    """
    _check_count(n)
    total = sum(sizes.values())
    if n > total:
        raise ConfigError(f"{n} facts were asked for, but there are {total}")
    number, left = dict.fromkeys(sizes, 0), int(n)
    while left:
        open_topics = sorted(topic for topic in sizes if number[topic] < sizes[topic])
        share = max(left // len(open_topics), 1)
        for topic in open_topics:
            added = min(share, sizes[topic] - number[topic], left)
            number[topic] += added
            left -= added
    return number


@lru_cache(maxsize=2**17)  # data samples of one number and several sizes draw the same facts
def _draw(seed: int, fact_id: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{fact_id}".encode(), digest_size=16).digest()


def sample(facts: pd.DataFrame, n: int | str | None, seed: int) -> pd.DataFrame:
    """Return `n` facts (None or "all": all), balanced over topics, sorted by fact_id.

    The facts drawn depend on (seed, fact_id) only, not on the order of rows. With the same seed, a
    larger sample contains the smaller one.

    Raises:
        ConfigError: as in `balanced`.
    """
    if n is None or n == "all":
        return facts.sort_values("fact_id", ignore_index=True)
    number = balanced(facts["topic"].value_counts().to_dict(), n)
    # The facts of each topic in the order of a hash; the first ones are drawn.
    ordered = facts.assign(draw=[_draw(seed, fact_id) for fact_id in facts["fact_id"]])
    ordered = ordered.sort_values("draw")
    rank = ordered.groupby("topic").cumcount()
    drawn = ordered[rank < ordered["topic"].map(number)].drop(columns="draw")
    return drawn.sort_values("fact_id", ignore_index=True)


def select(facts: pd.DataFrame, counts: Mapping[str, int | str | None], seed: int) -> pd.DataFrame:
    """Return a `sample` of each split named in `counts`, sorted by split and fact_id.

    `counts` maps train, dev, test or testood to a number of facts, or to None or "all" for every
    fact. Other splits are left out.

    Raises:
        ConfigError: a split is unknown or has too few facts.
    """
    for split in counts:
        if split not in SPLITS:
            raise ConfigError(f"unknown split {split!r}; there are: {', '.join(SPLITS)}")
    parts = [facts.iloc[:0]]
    for split in filter(counts.__contains__, SPLITS):
        try:
            parts.append(sample(facts[facts["split"] == split], counts[split], seed))
        except ConfigError as error:
            raise ConfigError(f"split {split!r}: {error}") from None
    return pd.concat(parts, ignore_index=True)


def choose(pool: pd.DataFrame, size: int | None, number: int, seed: int) -> pd.DataFrame:
    """Return data sample `number`: `size` facts of a pool (None: all), balanced over topics.

    Raises:
        TrainingError: the pool is empty or too small.
    """
    if pool.empty:
        raise TrainingError("no facts to fine-tune on: the level's pool is empty for this model")
    try:
        # One seed for each data sample; a larger sample holds the smaller one of its number.
        return sample(pool, size, seed * 1000 + number)
    except ConfigError as error:
        raise TrainingError(f"cannot draw {size} facts: {error}") from error
