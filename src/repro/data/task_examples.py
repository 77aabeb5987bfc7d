"""Reads and checks the examples of GSM8K and XSum, from a folder or from the Hub (Table 5).

A folder holds `gsm8k/train.jsonl` and `gsm8k/test.jsonl` (question, answer), and in `xsum/` any
`.jsonl` (document, summary, split). From the Hub they are read with the package `datasets`. The
parts that differ between the tasks are in `repro.data.gsm8k` and `repro.data.xsum`.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import pandas as pd

from repro.data import facts, gsm8k, xsum
from repro.errors import ConfigError, DataError
from repro.files import cause_in_git, is_whole, read_regular, user_path

TASKS: dict[str, ModuleType] = {"gsm8k": gsm8k, "xsum": xsum}
SPLITS = ("train", "test")
OTHER_SPLITS = ("validation", "dev")  # rows of these splits are allowed and not used
HUB = "hub"
FOLDER = (
    "REPRO_TASKS must name a folder with gsm8k/train.jsonl, gsm8k/test.jsonl and xsum/*.jsonl,"
    f" or be {HUB!r}"
)
Row = tuple[str, str, dict]  # its place (for error messages), split, columns


@dataclass(frozen=True)
class Examples:
    """The examples for training and test, each DataFrame[fact_id, topic, split, question, object].

    Attributes:
        train, test: the examples drawn.
        skipped: the number of unusable rows by reason.
        divided: whether the source has only one split, which was divided at random.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    skipped: dict[str, int]
    divided: bool = False

    @cached_property
    def digests(self) -> dict[str, str]:
        """The SHA-256 (64 hex digits) of each split; it does not depend on the source."""
        return {"train": _digest(self.train), "test": _digest(self.test)}


def source(place: str | Path | None = None) -> Path | str | None:
    """Return the source of examples, from `place` or `REPRO_TASKS`: a folder, `HUB`, or None.

    Raises:
        DataError: the folder does not exist.
    """
    name = str(place or os.environ.get("REPRO_TASKS") or "")
    if name in ("", HUB):
        return name or None
    folder = user_path(name)
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist: {FOLDER}")
    return folder


def draw(task: str, place: Path | str, sizes: dict, seed: int) -> Examples:
    """Return `sizes["train"]` and `sizes["test"]` examples (or "all"), drawn by `seed`.

    If the source has rows of one split only, both are drawn from it, without an overlap.

    Raises:
        DataError: an unreadable file, a row without its columns, too few examples.
    """
    frame, skipped = read(task, place)
    pools = {split: frame[frame["split"] == split] for split in SPLITS}
    divided = any(pool.empty for pool in pools.values())
    if divided and "all" in (sizes["train"], sizes["test"]):
        raise DataError(f"{task} from {place} has one split only, so that a size cannot be all")
    origin = f"{task} from {place}" + (f" ({_counted(skipped)} skipped)" if skipped else "")
    test = _sample(frame if divided else pools["test"], sizes["test"], seed, f"{origin}, test")
    rest = frame[~frame["fact_id"].isin(test["fact_id"])] if divided else pools["train"]
    train = _sample(rest, sizes["train"], seed, f"{origin}, train")
    return Examples(train, test, skipped, divided)


def _sample(pool: pd.DataFrame, size, seed: int, origin: str) -> pd.DataFrame:
    try:
        drawn = facts.sample(pool, size, seed)
    except ConfigError as error:
        raise DataError(f"{origin}: too few usable examples: {error}") from None
    if drawn.empty:
        raise DataError(f"{origin}: there is no usable example")
    return drawn


def _counted(skipped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in skipped.items())


def read(task: str, place: Path | str) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return every usable example, and the number of skipped rows by reason.

    Rows are skipped if a text is empty, if an answer of GSM8K has no final number, or if a summary
    is in a script that ROUGE does not know. The frame has the columns of `Examples`, and rows of
    train and test only.

    Raises:
        DataError: a file is unreadable, or a row lacks its columns.
    """
    skipped, examples, rows_of_split = Counter(), [], Counter()
    for where, split, row in _hub(task) if place == HUB else _folder(task, Path(place)):
        question, answer = (_text(row, column, where) for column in TASKS[task].COLUMNS)
        rows_of_split[split] += 1
        if reason := _reason_to_skip(task, question, answer):
            skipped[reason] += 1
        elif split in SPLITS:
            name = f"{task}-{split}-{rows_of_split[split] - 1:06d}"
            examples.append((name, task, split, question, TASKS[task].reference(answer)))
    frame = pd.DataFrame(examples, columns=["fact_id", "topic", "split", "question", "object"])
    return frame, dict(sorted(skipped.items()))


def _text(row: dict, column: str, where: str) -> str:
    """Return a column's text without spaces around it. Raises DataError if it is no text."""
    if not isinstance(row.get(column), str):
        raise DataError(f"{where}: there is no text named {column!r}")
    if not is_whole(row[column]):
        raise DataError(f"{where}: {column!r} holds half a character (a lone surrogate)")
    return row[column].strip()


def _reason_to_skip(task: str, question: str, answer: str) -> str:
    for text, column in zip((question, answer), TASKS[task].COLUMNS, strict=True):
        if not text:
            return f"with an empty {column}"
    return TASKS[task].reason_to_skip(answer)


def _folder(task: str, folder: Path) -> Iterator[Row]:
    """Yield the rows of a task in a folder. Raises DataError for an unknown split."""
    column = TASKS[task].SPLIT_COLUMN
    for path in TASKS[task].paths(folder / task):
        for where, row in _lines(path):
            split = _text(row, column, where) if column else path.stem
            if split not in (*SPLITS, *OTHER_SPLITS):
                raise DataError(f"{where}: the split is {split!r}, not train or test")
            yield where, split, row


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield (place, JSON object) of every line of a file. Raises DataError if one is none."""
    try:
        content = read_regular(path)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): {FOLDER}") from None
    if cause := cause_in_git(content):
        raise DataError(f"{path} {cause}")
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():  # many editors end a file with an empty line
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: truncated or not JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: not a JSON object")
        yield where, row


def _hub(task: str) -> Iterator[Row]:
    """Yield the rows of a task on the Hub. Raises DataError if they cannot be loaded."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"to get {task} from the Hub the package datasets is needed: install it with"
            f" `pip install -e '.[hub]'`. Without it {FOLDER}"
        ) from None
    dataset = TASKS[task].ON_HUB
    for split in SPLITS:
        try:
            rows = datasets.load_dataset(**dataset, split=split)
        except Exception as error:  # all kinds, from its network and file libraries
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(
                f"cannot get {dataset['path']} from the Hub ({reason}): try again, or {FOLDER}"
            ) from error
        for number, row in enumerate(rows):
            yield f"{dataset['path']}, {split}, row {number}", split, row


def _digest(examples: pd.DataFrame) -> str:
    rows = examples[["fact_id", "question", "object"]].to_numpy().tolist()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
