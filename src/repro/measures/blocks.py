"""Finished blocks of a long measurement, kept so that an interrupted run goes on with the rest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import pandas as pd

from repro.errors import StoreError
from repro.files import read_regular, text_sha256, write_atomic


def path(folder: Path, facts: pd.DataFrame, protocol: object) -> Path:
    """Return the file of the block of these facts, measured under this protocol (a dataclass)."""
    key = json.dumps([asdict(protocol), facts["fact_id"].tolist()])
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.csv"


def write(file: Path, table: pd.DataFrame) -> None:
    """Keep the table of a block; the first line is the SHA-256 of the lines that follow."""
    text = table.to_csv(index=False, lineterminator="\n").encode()
    write_atomic(file, f"# {text_sha256(text)}\n".encode() + text)


def read(file: Path) -> pd.DataFrame | None:
    """Return the table of a block, or None where there is no file or it is not as written."""
    try:
        first, _, text = read_regular(file).partition(b"\n")
    except (OSError, StoreError):
        return None
    if first != f"# {text_sha256(text)}".encode():
        return None
    return pd.read_csv(BytesIO(text))
