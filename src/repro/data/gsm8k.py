"""GSM8K, grade-school problems: its files, and the final number of an answer.

`repro.data.task_examples` uses the names in capitals, `paths`, `reason_to_skip` and `reference` of
this module; `repro.data.xsum` has the same names.
"""

import re
from fractions import Fraction
from pathlib import Path

from repro.paper import plain

COLUMNS = ("question", "answer")
SPLIT_COLUMN = None  # the name of a file says which split it holds
ON_HUB = {"path": "openai/gsm8k", "name": "main"}
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_MARKED = re.compile(r"####\s*(?=[-+$£€]*\.?\d)")
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)[$£€]?(?P<second_sign>[-+]?)"
    r"(?P<whole>\d{1,3}(?:,\d{3})+|\d*)(?P<decimals>\.\d+)?(?P<power>[eE][-+]?\d{1,3})?"
    r"(?:[ \t]*/[ \t]*(?P<divisor>\d+))?"
)
# What follows a number that is only a part of a longer number, of a sum or of a time of day.
_CONTINUES = re.compile(
    r"[ \t]*[-+*×·÷x^=/.,:]?[ \t]*\.?\d"
    r"|[ \t]*(?:k|hundred|thousand|million|billion|trillion|dozen)\b",
    re.IGNORECASE,
)


def paths(folder: Path) -> list[Path]:
    """Return the files of a folder of GSM8K, each named after its split."""
    return [folder / "train.jsonl", folder / "test.jsonl"]


def reason_to_skip(answer: str) -> str:
    """Return why an answer cannot be used, or an empty text: it must have a final number."""
    return "without a number" if final_number(answer) is None else ""


def reference(answer: str) -> str:
    """Return an answer in the form for training: without notes for a calculator (`<<2*3=6>>`)."""
    return _CALCULATOR.sub("", answer)


def final_number(text: str) -> Fraction | None:
    """Return the number after the first mark `####`, with which GSM8K marks a result, or None.

    A currency sign and the commas of thousands are ignored. `18` and `18.00` are the same number,
    and so are `.5` and `1/2`, `1e3` and `1,000`. All kinds of minus signs are read. For anything
    but one plain number (`2 + 3`, `3:30`, `1 1/2`, `5 million`, `1,2`) the result is None.
    """
    text = plain(text)
    marked = _MARKED.search(text)
    number = _NUMBER.match(text, marked.end()) if marked else None
    if number is None or _CONTINUES.match(text, number.end()):
        return None
    if number["sign"] and number["second_sign"]:
        return None
    digits = number["whole"].replace(",", "") + (number["decimals"] or "") + (number["power"] or "")
    try:
        value = Fraction(digits) / int(number["divisor"] or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return -value if "-" in (number["sign"], number["second_sign"]) else value
