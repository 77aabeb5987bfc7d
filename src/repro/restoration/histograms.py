"""Histograms of ranking keys, with the exact sum of the scores that they stand for (App. B.2)."""

import numpy as np

from repro.restoration.score_kernels import BINS, MANTISSAS, TABLES, add_packed, unpack


class Histogram:
    """The number of keys by upper half, and the exact sum of the floats whose bits the keys are.

    Sums are integers, in units of the smallest float32, 2⁻¹⁴⁹.
    """

    def __init__(self):
        """Set all counts to zero."""
        self.counts = np.zeros(BINS, np.int64)
        self.lower_sums = np.zeros(BINS, np.int64)

    def add(self, keys: np.ndarray) -> None:
        """Count at most `MAX_PACKED` keys."""
        packed = np.zeros((TABLES, BINS), np.int64)
        add_packed(keys, packed)
        self.add_tables(packed)

    def add_tables(self, packed: np.ndarray) -> int:
        """Add packed tables, clear them, and return the sum of the floats counted in them."""
        mantissas = np.zeros(256, np.int64)
        unpack(packed, self.counts, self.lower_sums, mantissas)
        return _exact_sum(mantissas)

    def add_counts(self, counts: np.ndarray, lower_sums: np.ndarray) -> int:
        """Add counts that were made elsewhere; return the sum of the floats counted in them."""
        self.counts += counts
        self.lower_sums += lower_sums
        return _sum_of_bins(counts, lower_sums)

    def merge(self, other: "Histogram") -> None:
        """Add another histogram."""
        self.counts += other.counts
        self.lower_sums += other.lower_sums

    @property
    def size(self) -> int:
        """Number of keys."""
        return int(self.counts.sum())

    def total(self, above: int = -1) -> int:
        """Return the sum of the floats in the bins above bin `above`; by default, in all bins."""
        is_above = np.arange(BINS) > above
        return _sum_of_bins(self.counts * is_above, self.lower_sums * is_above)


def _sum_of_bins(counts: np.ndarray, lower_sums: np.ndarray) -> int:
    return _exact_sum((counts * MANTISSAS + lower_sums).reshape(-1, 128).sum(1))


def _exact_sum(mantissas: np.ndarray) -> int:
    """Return a sum of floats in units of 2⁻¹⁴⁹, from the sums of their mantissas by exponent.

    Floats of one exponent are multiples of one unit, so an integer holds their sum exactly. The
    sums of the 256 exponents are added up in a Python integer, which has no size limit.
    """
    return sum(m << max(e - 1, 0) for e, m in enumerate(mantissas.tolist()) if m)


def units(key: int) -> int:
    """Return the float whose bits are `key`, in units of 2⁻¹⁴⁹: an integer."""
    exponent, mantissa = key >> 23, key & 0x7FFFFF
    return (mantissa | 1 << 23) << exponent - 1 if exponent else mantissa
