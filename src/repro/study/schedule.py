"""The order in which requests are computed, and their division among machines."""

import math
import re
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from repro.errors import ConfigError
from repro.study.requests import Request

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """One of `total` parts of the work, counted from 1. Each piece of work is in exactly one."""

    number: int
    total: int

    def share(self, items: list[Item]) -> list[Item]:
        """Return this part's items: every `total`-th."""
        return items[self.number - 1 :: self.total]

    def __str__(self) -> str:
        """Return the part as a user writes it, such as `2/4`."""
        return f"{self.number}/{self.total}"


def parse_part(text: str) -> Part:
    """Return the part from a text such as `2/4`.

    Raises:
        ConfigError: the text has another form, or there is no such part.
    """
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    if not numbers or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise ConfigError(f"part {text!r}: give a number and how many parts there are, such as 2/4")
    return Part(int(numbers[1]), int(numbers[2]))


def by_run(requests: list[Request]) -> list[list[Request]]:
    """Return requests in groups of one run, which are computed together, in their order."""
    return [list(group) for _, group in groupby(requests, key=lambda request: request.run)]


def longest_first(groups: list[list[Request]]) -> list[list[Request]]:
    """Return groups, the longest first, so that processes that share them end at the same time."""
    return sorted(groups, key=_effort, reverse=True)


def _effort(group: list[Request]) -> tuple[int, float]:
    """Return a key that sorts groups by their work: the number of requests, then of facts."""
    run = group[0].run
    return len(group), (run.size or math.inf) if run else 0


def of_part(requests: list[Request], part: Part) -> list[Request]:
    """Return the requests of a part, in whole runs.

    Parts are the same for the same requests. So call it with all requests of a study, not only with
    the missing ones.
    """
    return [request for group in part.share(longest_first(by_run(requests))) for request in group]
