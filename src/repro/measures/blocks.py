"""Finished blocks of a long measurement, kept so that an interrupted run goes on with the rest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from repro.files import write_atomic


def path(folder: Path, facts: pd.DataFrame, protocol: object) -> Path:
    """Return the file of the block of these facts, measured under this protocol (a dataclass)."""
    key = json.dumps([asdict(protocol), facts["fact_id"].tolist()])
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.csv"


def read(file: Path, facts: pd.DataFrame) -> pd.DataFrame | None:
    """Return a finished block, or None where it is absent, damaged or lacks a row."""
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError):  # absent, empty, not UTF-8 or not a table
        return None
    known = "fact_id" in table and table["fact_id"].tolist() == facts["fact_id"].tolist()
    return table if known and not table.isna().any(axis=None) else None


def write(file: Path, table: pd.DataFrame) -> None:
    """Keep a finished block."""
    write_atomic(file, table.to_csv(index=False))
