"""Reads a record from its file, and finds damage to it or to its table.

Every record and every table has a digest, the SHA-256 of its content, which is compared when it is
read. In the cache the digest is part of the record's file. In a folder of `results/` the digests
are in `digests.json`, which `repro export` writes, so that the records themselves are not changed.
Old records have no digest. A record in the cache without one, and a folder of `results/` without
`digests.json`, are read if `repro.study.record_checks` finds nothing impossible. In a folder with
this file, a record without a digest is refused.
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pandas as pd

from repro.errors import StoreError, one_line
from repro.files import (
    LFS_POINTER,
    MERGE_CONFLICT,
    cause_of_damage,
    read_regular,
    text_sha256,
    unreadable,
)
from repro.provenance import digest, key
from repro.study import record_checks

REMEDY = "`repro check MODEL --repair` deletes it and computes it again"


def record_name(kind: str, key: str | None) -> str:
    """Return the name of a record, such as `accuracy-0123456789abcdef`."""
    return f"{kind}-{key}"


def kind_and_key(name: str) -> tuple[str, str]:
    """Return kind and key of a record by its name, or by the name of its table's file."""
    kind, _, key_of_record = name.removesuffix(".csv").rpartition("-")
    return kind, key_of_record


@dataclass(frozen=True)
class Record:
    """A record: its kind, key, parameters and result, and where and when it was computed."""

    kind: str
    key: str
    params: dict
    result: dict
    provenance: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the record (`record_name`)."""
        return record_name(self.kind, self.key)

    @property
    def table_name(self) -> str:
        """The file name of its table in a folder of `results/`."""
        return f"{self.name}.csv"

    @property
    def has_table(self) -> bool:
        """Whether a table belongs to it, as a file of its own."""
        return self.result.get("table") is True


@dataclass(frozen=True)
class Stored:
    """A record as it is stored, not yet parsed."""

    text: bytes
    path: Path  # of the file that holds it, alone or with others of its kind
    table: Path  # the CSV beside it, if it has one
    digests: tuple[str | None, str | None] = (None, None)  # of the record and of its table
    digests_required: bool = False

    @property
    def kind(self) -> str:
        """The kind of record: the name of the file in `results/`, of the folder in the cache."""
        return self.path.stem if self.path.suffix == ".jsonl" else self.path.parent.name


class GitFileError(StoreError):
    """A file differs from what was committed, and Git can restore it."""


@lru_cache(maxsize=2**14)  # a study reads each of its records several times
def parse(stored: Stored) -> tuple[Record, str | None]:
    """Return a record after checking its content, and the digest that its table must have.

    Raises:
        StoreError: the text is not a record, or the record is damaged.
    """
    content = parse_json(stored.text, stored.path)
    of_record = content.pop("digest", stored.digests[0])
    of_table = content.pop("table_digest", stored.digests[1])
    try:
        record = Record(**content)
        record_checks.check(record.kind, record.params, record.result, record.provenance)
        key_of_params = key(record.kind, record.params)
        actual_digest = digest(record.kind, record.params, record.result, record.provenance)
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(stored.path, f"is not a record ({one_line(error)})") from error
    if record.key != key_of_params:
        raise damaged(stored.path, f"does not match its own parameters (record {record.key})")
    if of_record is None and stored.digests_required:
        raise damaged(stored.path, f"holds {record.name}, of which there is no digest")
    if of_record not in (None, actual_digest):
        raise damaged(stored.path, f"was changed after {record.name} was written")
    return record, of_table


def parse_json(text: bytes, path: Path) -> dict:
    """Return the object that a JSON text holds.

    Raises:
        StoreError: it is not JSON, or not an object. The message names the cause, if it is known.
    """
    if cause := cause_of_damage(text):
        raise damaged(path, cause)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"is not a record ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise damaged(path, f"is not a record (it holds {type(content).__name__}, not an object)")
    return content


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a number")


def read_table(stored: Stored) -> pd.DataFrame:
    """Return the table of a record, after comparing it with its digest and with the record.

    Raises:
        StoreError: the record or its table is missing or damaged.
    """
    record, table_digest = parse(stored)
    text = table_text(stored, table_digest)
    try:
        return record_checks.TABLES[record.kind](text, record.params, record.result)
    except (ValueError, KeyError, TypeError) as error:
        cause = f"is not a table of {record.name} ({one_line(error)})"
        raise damaged(stored.table, cause) from error


def table_text(stored: Stored, digest_needed: str | None) -> bytes:
    """Return the bytes of a record's table if they have the needed digest (None: any digest).

    Raises:
        StoreError: the file is missing, cannot be read, or has another digest.
    """
    text = read(stored.table)
    if text is None:
        raise damaged(stored.table, "is missing")
    if digest_needed is None and stored.digests_required:
        raise damaged(stored.table, "has no digest")
    if digest_needed not in (None, text_sha256(text)):
        cause = cause_of_damage(text) or "was changed after it was written"
        raise damaged(stored.table, f"is not a table of its record ({cause})")
    return text


def read(path: Path) -> bytes | None:
    """Return the content of a file, or None if there is none.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return read_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def damaged(path: Path, cause: str) -> StoreError:
    """Return the error that names a damaged file, what is wrong with it and what to do."""
    if cause in (LFS_POINTER, MERGE_CONFLICT):
        return GitFileError(f"{path} {cause}")
    return StoreError(f"{path} {cause}: {REMEDY}")
