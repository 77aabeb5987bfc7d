"""The scores of `score_kernels`, bit for bit, of weights that are on a GPU: counted where they are.

Each step is one operation on float32 numbers, which IEEE 754 rounds alike on every device. Only
counts come to the host: 32,768 for a block of four million parameters.
"""

from typing import NamedTuple

import numpy as np
import torch

from repro.restoration.score_kernels import (
    ABSOLUTE,
    BINS,
    EPSILON,
    FINITE,
    LARGEST,
    LOWER_HALVES,
    RANDOM,
    ROUNDED_EPSILON,
    SPLITMIX64,
)


class Keys(NamedTuple):
    """The keys of a block, int32, and which parameters have p = 0; how many have s = p.

    `finite` is False where a weight, or a score, is NaN or infinite.
    """

    keys: torch.Tensor
    zero: torch.Tensor
    unchanged: int
    finite: bool


def keys_of(tuned: torch.Tensor, base: torch.Tensor, start: int, criterion: tuple) -> Keys:
    """Return the keys of a flat block; `criterion` is as for `score_kernels.write_keys`."""
    kind, in_bfloat16, lowest_first, seed = criterion
    s, p = tuned.float(), base.float()
    scores = (s - p).abs()
    if kind != ABSOLUTE:
        scores = scores / (p.abs() + EPSILON)
    finite = bool((scores <= float(LARGEST)).all())  # False of NaN too
    if in_bfloat16:
        scores = _in_bfloat16(s, p, kind != ABSOLUTE)
        finite = bool((scores <= float(LARGEST)).all())
    keys = _random(seed, start, s) if kind == RANDOM else scores.view(torch.int32)
    if lowest_first:
        keys = int(FINITE) - keys
    return Keys(keys, p == 0, int((s == p).sum()), finite)


def _in_bfloat16(s: torch.Tensor, p: torch.Tensor, relative: bool) -> torch.Tensor:
    """Return the scores as float32, rounded to bfloat16 after each step."""
    s, p = _rounded(s), _rounded(p)
    change = _rounded((s - p).abs())
    if not relative:
        return change
    return _rounded(change / _rounded(p.abs() + float(ROUNDED_EPSILON)))


def _rounded(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.to(torch.bfloat16).float()


def _random(seed: np.uint64, start: int, like: torch.Tensor) -> torch.Tensor:
    """Return SplitMix64 of the seed and each position: the upper 31 bits."""
    step, first, second = map(_signed, SPLITMIX64)
    positions = torch.arange(start + 1, start + 1 + len(like), device=like.device)
    z = positions * step + _signed(int(seed))
    z = (z ^ _shifted(z, 30)) * first
    z = (z ^ _shifted(z, 27)) * second
    return _shifted(z ^ _shifted(z, 31), 33).int()


def _signed(number: int) -> int:
    """Return the int64 with the bits of a uint64, whose products and sums have the same bits."""
    return number - (1 << 64) if number >> 63 else number


def _shifted(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift int64 numbers to the right as if they had no sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def upper_halves(keys: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of keys by upper half, and the sums of their lower halves: int64[BINS]."""
    upper = (keys >> 16).long()
    sums = torch.zeros(BINS, dtype=torch.int64, device=keys.device)
    sums.scatter_add_(0, upper, (keys & (LOWER_HALVES - 1)).long())
    return torch.bincount(upper, minlength=BINS).cpu().numpy(), sums.cpu().numpy()


def add_lower_halves(keys: torch.Tensor, rows: np.ndarray, table: np.ndarray) -> None:
    """Add to `table` the keys by lower half whose upper half has a row in it.

    `rows` and `table` are as for `score_kernels.count_lower_halves`.
    """
    row = torch.from_numpy(rows).to(keys.device)[(keys >> 16).long()].long()
    has_row = row > 0
    places = (row[has_row] - 1) * LOWER_HALVES + (keys[has_row] & (LOWER_HALVES - 1))
    counts = torch.bincount(places, minlength=table.size)
    table += counts.cpu().numpy().reshape(table.shape)
