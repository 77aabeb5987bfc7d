"""Files of the finished blocks of a long measurement.

A measurement writes each block of facts when it is finished. If it is interrupted, the next one
reads these blocks and measures only the rest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import pandas as pd

from repro.errors import StoreError
from repro.files import read_regular, text_sha256, write_atomic
from repro.models.devices import processes


def path(folder: Path, facts: pd.DataFrame, protocol: object) -> Path:
    """Return the file of the block of these facts, measured under this protocol (a dataclass)."""
    key = json.dumps([asdict(protocol), facts["fact_id"].tolist()])
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.csv"


def write(file: Path, table: pd.DataFrame) -> None:
    """Write the table of a block; the first line is the SHA-256 of the lines that follow."""
    text = table.to_csv(index=False, lineterminator="\n").encode()
    write_atomic(file, f"# {text_sha256(text)}\n".encode() + text)


def read(file: Path) -> pd.DataFrame | None:
    """Return the table of a block, or None if there is no file or its content was changed."""
    try:
        first, _, text = read_regular(file).partition(b"\n")
    except (OSError, StoreError):
        return None
    if first != f"# {text_sha256(text)}".encode():
        return None
    return pd.read_csv(BytesIO(text))


def delete_all(folder: Path | None) -> None:
    """Delete the folder of the finished blocks, if there is one.

    Every process of a launch calls this. The first one deletes, once none reads the blocks anymore.
    """
    sharing = processes()
    sharing.wait_for_everyone()
    if folder and sharing.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
