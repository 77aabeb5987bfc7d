"""Examples of GSM8K and XSum, from a folder or from the Hub, checked and counted (Table 5).

A folder holds `gsm8k/train.jsonl` and `gsm8k/test.jsonl` (question, answer), and in `xsum/` any
`.jsonl` (document, summary, split). From the Hub they come through the package `datasets`. What is
particular to a task is in `repro.data.gsm8k` and `repro.data.xsum`.
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
OTHER_SPLITS = ("validation", "dev")  # there may be such rows; nothing here is chosen on them
HUB = "hub"
FOLDER = (
    "REPRO_TASKS must name a folder with gsm8k/train.jsonl, gsm8k/test.jsonl and xsum/*.jsonl,"
    f" or be {HUB!r}"
)
Row = tuple[str, str, dict]  # where it is (for messages), split, columns


@dataclass(frozen=True)
class Examples:
    """What is trained on and tested on, each DataFrame[fact_id, topic, split, question, object].

    `skipped` counts the rows left out, by reason. `divided`: the source has one split only, which
    was divided by chance.
    """

    train: pd.DataFrame
    test: pd.DataFrame
    skipped: dict[str, int]
    divided: bool = False

    @cached_property
    def digests(self) -> dict[str, str]:
        """The SHA-256 (64 hex digits) of each split, wherever it came from."""
        return {"train": _digest(self.train), "test": _digest(self.test)}


def source(place: str | Path | None = None) -> Path | str | None:
    """Return where examples come from: a folder, `HUB`, or None where nothing says it.

    `place`, else `REPRO_TASKS`. Raises DataError for a folder that does not exist.
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

    Where the source has rows of one split only, both are drawn from it, without an overlap.

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
    """Return every usable example, and how many rows were skipped for which reason.

    Skipped are rows with an empty text, answers of GSM8K without a final number, and summaries in a
    script that ROUGE does not know. The frame has the columns of `Examples`; rows of other splits
    than train and test are left out.

    Raises DataError for an unreadable file or a row without its columns.
    """
    skipped, made, places = Counter(), [], Counter()
    for where, split, row in _hub(task) if place == HUB else _folder(task, Path(place)):
        question, answer = (_text(row, column, where) for column in TASKS[task].COLUMNS)
        places[split] += 1
        if reason := _unusable(task, question, answer):
            skipped[reason] += 1
        elif split in SPLITS:
            example = f"{task}-{split}-{places[split] - 1:06d}"
            made.append((example, task, split, question, TASKS[task].reference(answer)))
    frame = pd.DataFrame(made, columns=["fact_id", "topic", "split", "question", "object"])
    return frame, dict(sorted(skipped.items()))


def _text(row: dict, column: str, where: str) -> str:
    if not isinstance(row.get(column), str):
        raise DataError(f"{where}: there is no text named {column!r}")
    if not is_whole(row[column]):
        raise DataError(f"{where}: {column!r} holds half a character (a lone surrogate)")
    return row[column].strip()


def _unusable(task: str, question: str, answer: str) -> str:
    for text, column in zip((question, answer), TASKS[task].COLUMNS, strict=True):
        if not text:
            return f"with an empty {column}"
    return TASKS[task].reason_to_skip(answer)


def _folder(task: str, folder: Path) -> Iterator[Row]:
    column = TASKS[task].SPLIT_COLUMN
    for path in TASKS[task].paths(folder / task):
        for where, row in _lines(path):
            split = _text(row, column, where) if column else path.stem
            if split not in (*SPLITS, *OTHER_SPLITS):
                raise DataError(f"{where}: the split is {split!r}, not train or test")
            yield where, split, row


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
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
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"to get {task} from the Hub the package datasets is needed: install it with"
            f" `pip install -e '.[hub]'`. Without it {FOLDER}"
        ) from None
    chosen = TASKS[task].ON_HUB
    for split in SPLITS:
        try:
            rows = datasets.load_dataset(**chosen, split=split)
        except Exception as error:  # it raises whatever its network and file libraries do
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(
                f"cannot get {chosen['path']} from the Hub ({reason}): try again, or {FOLDER}"
            ) from error
        for number, row in enumerate(rows):
            yield f"{chosen['path']}, {split}, row {number}", split, row


def _digest(examples: pd.DataFrame) -> str:
    rows = examples[["fact_id", "question", "object"]].to_numpy().tolist()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
