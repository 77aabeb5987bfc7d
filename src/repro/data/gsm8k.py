"""GSM8K: the number that an answer ends with."""

import re
from decimal import Decimal

_FINAL = re.compile(r"####\s*\$?(-?\d[\d,]*(?:\.\d+)?)")


def final_number(text: str) -> Decimal | None:
    """Return the number on the first line marked `####`, as GSM8K marks it, or None.

    Commas and a dollar sign are left out; `18` and `18.00` are the same number.
    """
    match = _FINAL.search(text)
    return Decimal(match[1].replace(",", "")) if match else None
