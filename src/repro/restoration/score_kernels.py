"""The size of a change and its histograms, in loops compiled to machine code (App. B.2).

Non-negative floats are ordered as their bits are, so a score is kept as the 31 bits of a float32,
and counting the upper 15 and the lower 16 of them ranks any number of parameters exactly.
Loops, because array operations would read and write every intermediate result: these take about
a nanosecond per parameter and let go of Python's lock, so that threads share the work.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

EPSILON = 1e-8
# PyTorch rounds the number to bfloat16 too before it is added.
_ROUNDED_EPSILON = np.uint32(0x322C0000).view(np.float32)
BINS = 1 << 15  # of the upper half of a score: its sign is never set
LOWS = 1 << 16  # of the lower half
CHUNK = 4096  # parameters at a time: what is computed of them stays in a near cache
RELATIVE, ABSOLUTE, RANDOM = range(3)

ONE_BIT = 40
ONE = 1 << ONE_BIT  # one parameter in a packed bin, above the sum of the lower halves
MOST = 1 << 23  # parameters that the packed tables can count
TABLES = 4  # packed tables that neighbours are counted in

_MANTISSAS = np.arange(BINS) % 128 + 128 << 16  # of the first float of each bin, whole numbers
_MANTISSAS[:128] -= 128 << 16  # subnormal
_SIGN_OFF, _HALF, _FINITE = np.uint32(0x7FFFFFFF), np.uint32(16), np.uint32(0x7F7FFFFF)
_LARGEST = np.float32(np.finfo(np.float32).max)
_LOW, _HIGH = np.uint32(0xFFFF), np.uint32(0xFFFF0000)

# The error model of NumPy: a check for division by zero would keep loops from being vectorised.
compiled = njit(nogil=True, cache=True, error_model="numpy")


@intrinsic
def _float(context, bits):
    """Return the float32 that 32 bits are: a `view` of one number, which loops can hold."""

    def reinterpret(context, builder, signature, given):
        return builder.bitcast(given[0], ir.FloatType())

    return types.float32(types.uint32), reinterpret


def _wide(number):
    """Return the bits of a number as float32: a bfloat16 is the upper half of one."""


@overload(_wide)
def _wide_of(number):
    if number is types.uint16:
        return lambda number: np.uint32(np.uint32(number) << _HALF)
    return lambda number: number


@compiled
def _round(raw, out):
    # To the nearest bfloat16, ties to even.
    for i in range(raw.size):
        bits = _wide(raw[i])
        odd = (bits >> _HALF) & np.uint32(1)
        out[i] = (bits + np.uint32(0x7FFF) + odd) & _HIGH


@compiled
def _finite(bits):
    beyond = np.int32(0)
    for i in range(bits.size):
        beyond = np.int32(beyond + ((bits[i] & _SIGN_OFF) > _FINITE))
    return beyond == 0


@compiled
def _change(tuned, base, relative, out):
    # Also counts what is met on the way. Sums are cut to 32 bits at each step, or they would grow
    # to 64, and half as many would fit into a register.
    x = out.view(np.float32)
    beyond, equal, zeros = np.int32(0), np.int32(0), np.int32(0)
    for i in range(out.size):
        s, p = _float(_wide(tuned[i])), _float(_wide(base[i]))
        change = abs(s - p)
        x[i] = change / (abs(p) + np.float32(EPSILON)) if relative else change
        beyond = np.int32(beyond + (not x[i] <= _LARGEST))  # so is NaN
        equal = np.int32(equal + (s == p))
        zeros = np.int32(zeros + (p == np.float32(0)))
    return beyond == 0, equal, zeros


@compiled
def _rounded_change(tuned, base, relative, room, out):
    # As `_change`, but each step is rounded to bfloat16. `room` holds the rounded s and p.
    _round(tuned, room[0])
    _round(base, room[1])
    finite = _change(room[0], room[1], False, out)[0]
    _round(out, out)
    if relative:
        x, b = out.view(np.float32), room[1].view(np.float32)
        for i in range(b.size):
            b[i] = abs(b[i]) + _ROUNDED_EPSILON
        _round(room[1], room[1])
        for i in range(b.size):
            x[i] = x[i] / b[i]
        finite = finite and _finite(out)
        _round(out, out)
    return finite and _finite(out)


@compiled
def _draw(seed, start, out):
    # SplitMix64 addressed by position, so that a number depends on nothing before it.
    for i in range(out.size):
        z = seed + np.uint64(start + i + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = np.uint32((z ^ (z >> np.uint64(31))) >> np.uint64(33))


@compiled
def _keys(tuned, base, start, how, room, out):
    """Fill `out` with what a chunk is ranked by; `room` is uint32[2, at least as many].

    Returns (whether its changes are finite, how many have s = p, how many p = 0).
    """
    kind, bfloat16, lowest, seed = how
    finite, equal, zeros = _change(tuned, base, kind != ABSOLUTE, out)
    if bfloat16:
        finite = _rounded_change(tuned, base, kind != ABSOLUTE, room[:, : out.size], out)
    if finite and kind == RANDOM:
        _draw(seed, start, out)
    if finite and lowest:
        for i in range(out.size):
            out[i] = _FINITE - out[i]
    return finite, equal, zeros


@compiled
def fill(tuned, base, start, how, out):
    """Write the keys of a block to `out`, uint32; return False where a weight is not finite.

    Args:
        tuned, base: flat blocks as uint32 (the bits of float32) or uint16 (of bfloat16).
        start: position of the block in its tensor.
        how: (kind, in bfloat16, lowest first, the tensor's seed).
    """
    room = np.empty((2, CHUNK), np.uint32)
    for at in range(0, out.size, CHUNK):
        s, p, keys = tuned[at : at + CHUNK], base[at : at + CHUNK], out[at : at + CHUNK]
        if not _keys(s, p, start + at, how, room, keys)[0]:
            return False
    return True


@compiled
def add(keys, packed):
    """Count keys in packed tables: per upper half, their number and the sum of lower halves.

    Neighbours go to tables of their own, since they are often alike, and to add to a number that
    was written just now is to wait for it. `packed` is int64[TABLES, BINS], to be summed.
    """
    rest = keys.size % TABLES
    for i in range(0, keys.size - rest, TABLES):
        for j in range(TABLES):
            packed[j, keys[i + j] >> _HALF] += np.int64(ONE) + np.int64(keys[i + j] & _LOW)
    for i in range(keys.size - rest, keys.size):
        packed[0, keys[i] >> _HALF] += np.int64(ONE) + np.int64(keys[i] & _LOW)


@compiled
def drain(packed, counts, lows, mantissas):
    """Empty packed tables into int64[BINS], numbers and sums of lower halves.

    `mantissas`, int64[256], takes the sums of what was in the tables by exponent, each in units of
    its own: see `_whole`.
    """
    for e in range(mantissas.size):
        first, any_, whole = 128 * e, np.int64(0), np.int64(0)
        for j in range(TABLES):
            for b in range(first, first + 128):
                any_ |= packed[j, b]
        if not any_:  # as it is for most
            continue
        for b in range(first, first + 128):
            both = packed[:, b].sum()
            number, low = both >> ONE_BIT, both & (ONE - 1)
            counts[b] += number
            lows[b] += low
            whole += number * _MANTISSAS[b] + low
        packed[:, first : first + 128] = 0
        mantissas[e] += whole


@compiled
def _zero(raw):
    # Where a number is 0 or −0: nothing is left of it without its sign.
    found = np.empty(raw.size, np.bool_)
    for i in range(raw.size):
        found[i] = _wide(raw[i]) & _SIGN_OFF == 0
    return found


@compiled
def count(tuned, base, start, how, packed, packed_zero, rows, table, table_zero):
    """Count a block by the upper half of its keys; in `packed_zero` those with p = 0 once more.

    Arguments as for `fill` and `refine`, which is done along the way where `table` has rows; the
    packed tables are as for `add`, for at most `MOST` parameters. Returns how many have s = p and
    how many p = 0; −1 where a weight is not finite.
    """
    work, inside = np.empty((3, CHUNK), np.uint32), np.empty(CHUNK, np.int64)
    unchanged = zero_base = 0
    for at in range(0, tuned.size, CHUNK):
        s, p = tuned[at : at + CHUNK], base[at : at + CHUNK]
        keys = work[2, : p.size]
        finite, equal, zeros = _keys(s, p, start + at, how, work[:2], keys)
        if not finite:
            return -1, -1
        add(keys, packed)
        unchanged += equal
        zero_base += zeros
        if zeros:
            add(keys[_zero(p)], packed_zero)
        if len(table):
            _refine(keys, p, inside, rows, table, table_zero)
    return unchanged, zero_base


@compiled
def refine(tuned, base, start, how, rows, table, table_zero):
    """Count the lower halves of those keys whose upper half has a row; p = 0 in `table_zero` too.

    Args:
        tuned, base, start, how: as for `fill`.
        rows: int of length `BINS`, the row of each upper half plus one, 0 for none.
        table, table_zero: int64[rows, LOWS].
    """
    work, inside = np.empty((3, CHUNK), np.uint32), np.empty(CHUNK, np.int64)
    for at in range(0, tuned.size, CHUNK):
        s, p = tuned[at : at + CHUNK], base[at : at + CHUNK]
        keys = work[2, : p.size]
        _keys(s, p, start + at, how, work[:2], keys)
        _refine(keys, p, inside, rows, table, table_zero)


@compiled
def _refine(keys, p, inside, rows, table, table_zero):
    found = 0
    for i in range(keys.size):  # without a branch, which the processor would often guess wrong
        inside[found] = i
        found += rows[keys[i] >> _HALF] != 0
    for i in inside[:found]:
        row, low = rows[keys[i] >> _HALF] - 1, keys[i] & _LOW
        table[row, low] += 1
        if _wide(p[i]) & _SIGN_OFF == 0:
            table_zero[row, low] += 1


@compiled
def exceed(keys, thresholds, above, equal):
    """Add to `above` and `equal`, per threshold, how many keys lie above it and on it."""
    for at in range(0, keys.size, CHUNK):
        part = keys[at : at + CHUNK]
        for t in range(thresholds.size):
            threshold, more, same = thresholds[t], np.int32(0), np.int32(0)
            for i in range(part.size):
                more = np.int32(more + (part[i] > threshold))
                same = np.int32(same + (part[i] == threshold))
            above[t] += more
            equal[t] += same


@compiled
def pick(keys, threshold, ties, mask):
    """Mark the keys above a threshold and the first `ties` on it; return how many are left."""
    for i in range(keys.size):
        mask[i] = keys[i] > threshold
        if keys[i] == threshold and ties > 0:
            mask[i] = True
            ties -= 1
    return ties


class Histogram:
    """Number of keys by their upper half, and the exact sum of the floats they are the bits of.

    Sums are whole numbers of the smallest float32, 2⁻¹⁴⁹.
    """

    def __init__(self):
        """Start empty."""
        self.counts = np.zeros(BINS, np.int64)
        self.lows = np.zeros(BINS, np.int64)

    def add(self, keys: np.ndarray) -> None:
        """Count at most `MOST` keys."""
        packed = np.zeros((TABLES, BINS), np.int64)
        add(keys, packed)
        self.take(packed)

    def take(self, packed: np.ndarray) -> int:
        """Add packed tables, clear them, and return the sum of their floats."""
        mantissas = np.zeros(256, np.int64)
        drain(packed, self.counts, self.lows, mantissas)
        return _whole(mantissas)

    def merge(self, other: "Histogram") -> None:
        """Add another histogram."""
        self.counts += other.counts
        self.lows += other.lows

    @property
    def size(self) -> int:
        """Number of keys."""
        return int(self.counts.sum())

    def total(self, above: int = -1) -> int:
        """Return the sum of the floats in the bins above one."""
        beyond = np.arange(BINS) > above
        return _sum(self.counts * beyond, self.lows * beyond)


def _sum(counts: np.ndarray, lows: np.ndarray) -> int:
    return _whole((counts * _MANTISSAS + lows).reshape(-1, 128).sum(1))


def _whole(mantissas: np.ndarray) -> int:
    # The floats of one exponent are whole numbers of one unit, so their sum is exact; the sums of
    # the 256 exponents are joined in an integer of any length.
    return sum(m << max(e - 1, 0) for e, m in enumerate(mantissas.tolist()) if m)


def units(key: int) -> int:
    """Return the float whose bits are `key` as a whole number of 2⁻¹⁴⁹."""
    exponent, mantissa = key >> 23, key & 0x7FFFFF
    return (mantissa | 1 << 23) << exponent - 1 if exponent else mantissa
