"""In which order requests are computed, and how they are divided among machines."""

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
    """One of `total` shares of the work, counted from 1: each piece of work is in exactly one."""

    number: int
    total: int

    def share(self, items: list[Item]) -> list[Item]:
        """Return this part's items: every `total`-th."""
        return items[self.number - 1 :: self.total]

    def __str__(self) -> str:
        """Return the part as it is written, such as `2/4`."""
        return f"{self.number}/{self.total}"


def parse_part(text: str) -> Part:
    """Return the part that is written as `2/4`.

    Raises:
        ConfigError: it is not written so, or there is no such part.
    """
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    if not numbers or not 1 <= int(numbers[1]) <= int(numbers[2]):
        raise ConfigError(f"part {text!r}: give a number and how many parts there are, such as 2/4")
    return Part(int(numbers[1]), int(numbers[2]))


def by_run(requests: list[Request]) -> list[list[Request]]:
    """Return requests in groups that are computed together: those of one run, in their order."""
    return [list(group) for _, group in groupby(requests, key=lambda request: request.run)]


def longest_first(groups: list[list[Request]]) -> list[list[Request]]:
    """Return groups by their length, so that processes which share them end together."""
    return sorted(groups, key=_effort, reverse=True)


def _effort(group: list[Request]) -> tuple[int, float]:
    run = group[0].run
    return len(group), (run.size or math.inf) if run else 0


def of_part(requests: list[Request], part: Part) -> list[Request]:
    """Return the requests of a part: whole runs.

    The same requests always give the same parts, so give all of a study's, not what is missing.
    """
    return [request for group in part.share(longest_first(by_run(requests))) for request in group]
