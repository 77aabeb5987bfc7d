"""GSM8K: grade-school problems; where they are, and the number that an answer ends with.

The names in capitals, `paths`, `reason_to_skip` and `reference` are what
`repro.data.task_examples` asks of a task; `repro.data.xsum` has the same.
"""

import re
from decimal import Decimal
from pathlib import Path

COLUMNS = ("question", "answer")
SPLIT_COLUMN = None  # the name of a file says which split it holds
ON_HUB = {"path": "openai/gsm8k", "name": "main"}
_FINAL = re.compile(r"####\s*\$?(-?\d[\d,]*(?:\.\d+)?)")
_CALCULATOR = re.compile(r"<<[^<>]*>>")


def paths(folder: Path) -> list[Path]:
    """Return the files of a folder of GSM8K, each named after its split."""
    return [folder / "train.jsonl", folder / "test.jsonl"]


def reason_to_skip(answer: str) -> str:
    """Return why an answer cannot be used, or an empty text: it must have a final number."""
    return "without a number" if final_number(answer) is None else ""


def reference(answer: str) -> str:
    """Return an answer as it is trained on: without notes for a calculator (`<<2*3=6>>`)."""
    return _CALCULATOR.sub("", answer)


def final_number(text: str) -> Decimal | None:
    """Return the number on the first line marked `####`, as GSM8K marks it, or None.

    Commas and a dollar sign are left out; `18` and `18.00` are the same number.
    """
    match = _FINAL.search(text)
    return Decimal(match[1].replace(",", "")) if match else None
