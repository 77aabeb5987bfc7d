"""Compiled loops that score every parameter and count the scores (App. B.2).

Non-negative floats sort in the order of their bits. So a score is stored as a key, the 31 bits of a
float32. Keys are counted by their upper 15 bits first, then by their lower 16 bits, which ranks any
number of parameters exactly.

These are loops because array operations would read and write every intermediate result. A loop
takes about a nanosecond per parameter and releases Python's lock, so threads run in parallel.

In all of them s is the fine-tuned weight and p the pre-trained one, as in the paper.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from repro.inference.compiled import keeps

EPSILON = 1e-8
# 1e-8 in bfloat16: PyTorch rounds the constant too before adding it.
ROUNDED_EPSILON = np.uint32(0x322C0000).view(np.float32)
BINS = 1 << 15  # values of the upper half of a key, 15 bits: the sign is never set
LOWER_HALVES = 1 << 16  # values of the lower half of a key
CHUNK = 4096  # parameters at a time, so that intermediate results stay in the L1 cache
RELATIVE, ABSOLUTE, RANDOM = range(3)

ONE_BIT = 40
ONE = 1 << ONE_BIT  # one parameter in a packed bin; the bits below hold the sum of the lower halves
MAX_PACKED = 1 << 23  # most parameters that the packed tables can count without overflow
TABLES = 4  # packed tables; neighbouring keys are counted in different ones

# The mantissa of the first float of each bin, as an integer.
MANTISSAS = np.arange(BINS) % 128 + 128 << 16
MANTISSAS[:128] -= 128 << 16  # subnormal floats have no implicit leading bit
# SplitMix64: what is added for each position, and the two factors that mix.
SPLITMIX64 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
FINITE = np.uint32(0x7F7FFFFF)  # the bits of the largest float32
_SIGN_OFF, _HALF = np.uint32(0x7FFFFFFF), np.uint32(16)
LARGEST = np.float32(np.finfo(np.float32).max)
_LOW, _HIGH = np.uint32(0xFFFF), np.uint32(0xFFFF0000)

# NumPy's error model, because a check for division by zero prevents vectorised loops.
IS_CACHED = keeps(__file__)  # between processes
compiled = njit(nogil=True, cache=IS_CACHED, error_model="numpy")


@intrinsic
def _float32_of_bits(context, bits):
    """Reinterpret 32 bits as a float32: the `view` of a single number, for use in loops."""

    def reinterpret(context, builder, signature, given):
        return builder.bitcast(given[0], ir.FloatType())

    return types.float32(types.uint32), reinterpret


def _float32_bits(number):
    """Return a weight's bits as those of a float32; a bfloat16 is the upper half of a float32."""


@overload(_float32_bits)
def _float32_bits_overload(number):
    if number is types.uint16:
        return lambda number: np.uint32(np.uint32(number) << _HALF)
    return lambda number: number


@compiled
def _round_to_bfloat16(raw, out):
    """Write the bits of weights to `out`, rounded to the nearest bfloat16, ties to even."""
    for i in range(raw.size):
        bits = _float32_bits(raw[i])
        odd = (bits >> _HALF) & np.uint32(1)
        out[i] = (bits + np.uint32(0x7FFF) + odd) & _HIGH


@compiled
def _all_finite(bits):
    """Tell whether no number is NaN or infinite, by its bits."""
    not_finite = np.int32(0)
    for i in range(bits.size):
        not_finite = np.int32(not_finite + ((bits[i] & _SIGN_OFF) > FINITE))
    return not_finite == 0


@compiled
def _changes(tuned, base, relative, out):
    """Write the bits of |s − p|, or of the relative change |s − p| / (|p| + 1e-8), to `out`.

    Returns (whether all are finite, number with s = p, number with p = 0), counted in the same
    pass.
    """
    # Counters are cut to 32 bits at each step: as 64 bits, half as many would fit a register.
    scores = out.view(np.float32)
    not_finite, equal, zeros = np.int32(0), np.int32(0), np.int32(0)
    for i in range(out.size):
        s, p = _float32_of_bits(_float32_bits(tuned[i])), _float32_of_bits(_float32_bits(base[i]))
        change = abs(s - p)
        scores[i] = change / (abs(p) + np.float32(EPSILON)) if relative else change
        not_finite = np.int32(not_finite + (not scores[i] <= LARGEST))  # true of NaN too
        equal = np.int32(equal + (s == p))
        zeros = np.int32(zeros + (p == np.float32(0)))
    return not_finite == 0, equal, zeros


@compiled
def _bfloat16_changes(tuned, base, relative, scratch, out):
    """Write changes as `_changes`, with each step rounded to bfloat16; return if all are finite.

    `scratch`, uint32[2, size], holds the rounded s and p.
    """
    _round_to_bfloat16(tuned, scratch[0])
    _round_to_bfloat16(base, scratch[1])
    finite = _changes(scratch[0], scratch[1], False, out)[0]
    _round_to_bfloat16(out, out)
    if relative:
        scores, denominators = out.view(np.float32), scratch[1].view(np.float32)
        for i in range(denominators.size):
            denominators[i] = abs(denominators[i]) + ROUNDED_EPSILON
        _round_to_bfloat16(scratch[1], scratch[1])
        for i in range(denominators.size):
            scores[i] = scores[i] / denominators[i]
        finite = finite and _all_finite(out)
        _round_to_bfloat16(out, out)
    return finite and _all_finite(out)


@compiled
def _random_keys(seed, start, out):
    """Write random keys by SplitMix64: each depends on the seed and on its position alone."""
    for i in range(out.size):
        z = seed + np.uint64(start + i + 1) * np.uint64(SPLITMIX64[0])
        z = (z ^ (z >> np.uint64(30))) * np.uint64(SPLITMIX64[1])
        z = (z ^ (z >> np.uint64(27))) * np.uint64(SPLITMIX64[2])
        out[i] = np.uint32((z ^ (z >> np.uint64(31))) >> np.uint64(33))


@compiled
def _chunk_keys(tuned, base, start, criterion, scratch, out):
    """Write the keys of a chunk to `out`; `scratch` is uint32[2, at least the chunk's size].

    Returns (whether all changes are finite, number with s = p, number with p = 0).
    """
    kind, bfloat16, lowest_first, seed = criterion
    finite, equal, zeros = _changes(tuned, base, kind != ABSOLUTE, out)
    if bfloat16:
        finite = _bfloat16_changes(tuned, base, kind != ABSOLUTE, scratch[:, : out.size], out)
    if finite and kind == RANDOM:
        _random_keys(seed, start, out)
    if finite and lowest_first:
        for i in range(out.size):
            out[i] = FINITE - out[i]
    return finite, equal, zeros


@compiled
def write_keys(tuned, base, start, criterion, out):
    """Write the keys of a block to `out`, uint32; return False if a weight is not finite.

    Args:
        tuned, base: flat blocks as uint32 (the bits of float32) or uint16 (of bfloat16).
        start: position of the block in its tensor.
        criterion: (kind of score, whether in bfloat16, whether the lowest come first, seed of the
            tensor).
    """
    scratch = np.empty((2, CHUNK), np.uint32)
    for at in range(0, out.size, CHUNK):
        s, p, keys = tuned[at : at + CHUNK], base[at : at + CHUNK], out[at : at + CHUNK]
        if not _chunk_keys(s, p, start + at, criterion, scratch, keys)[0]:
            return False
    return True


@compiled
def add_packed(keys, packed):
    """Count keys in packed tables: for each upper half, their number and sum of lower halves.

    `packed` is int64[TABLES, BINS]; the sum over the tables is the count. There are several tables
    because neighbouring keys are often alike, and the processor stalls when a loop adds to a bin
    that it has just written. So neighbours go to different tables.
    """
    rest = keys.size % TABLES
    for i in range(0, keys.size - rest, TABLES):
        for j in range(TABLES):
            packed[j, keys[i + j] >> _HALF] += np.int64(ONE) + np.int64(keys[i + j] & _LOW)
    for i in range(keys.size - rest, keys.size):
        packed[0, keys[i] >> _HALF] += np.int64(ONE) + np.int64(keys[i] & _LOW)


@compiled
def unpack(packed, counts, lower_sums, mantissas):
    """Move packed tables into `counts` and `lower_sums` (of lower halves), int64[BINS].

    Adds to `mantissas`, int64[256], the sum of the counted floats by exponent, in units of the
    last place of that exponent (see `_exact_sum`).
    """
    for e in range(mantissas.size):
        first, any_bits, mantissa_sum = 128 * e, np.int64(0), np.int64(0)
        for j in range(TABLES):
            for b in range(first, first + 128):
                any_bits |= packed[j, b]
        if not any_bits:  # true of most exponents
            continue
        for b in range(first, first + 128):
            packed_sum = packed[:, b].sum()
            number, low = packed_sum >> ONE_BIT, packed_sum & (ONE - 1)
            counts[b] += number
            lower_sums[b] += low
            mantissa_sum += number * MANTISSAS[b] + low
        packed[:, first : first + 128] = 0
        mantissas[e] += mantissa_sum


@compiled
def _zero_mask(raw):
    """Return where a weight is 0 or −0: where its bits without the sign are 0."""
    is_zero = np.empty(raw.size, np.bool_)
    for i in range(raw.size):
        is_zero[i] = _float32_bits(raw[i]) & _SIGN_OFF == 0
    return is_zero


@compiled
def count_upper_halves(tuned, base, start, criterion, packed, packed_zero, rows, table, table_zero):
    """Count a block by the upper half of its keys, and again in `packed_zero` those with p = 0.

    Takes the arguments of `write_keys` and `count_lower_halves`; if `table` has rows, it counts
    lower halves in the same pass. The packed tables are those of `add_packed`, for at most
    `MAX_PACKED` parameters. Returns the numbers with s = p and with p = 0; (−1, −1) if a weight is
    not finite.
    """
    work, positions = np.empty((3, CHUNK), np.uint32), np.empty(CHUNK, np.int64)
    unchanged = zero_base = 0
    for at in range(0, tuned.size, CHUNK):
        s, p = tuned[at : at + CHUNK], base[at : at + CHUNK]
        keys = work[2, : p.size]
        finite, equal, zeros = _chunk_keys(s, p, start + at, criterion, work[:2], keys)
        if not finite:
            return -1, -1
        add_packed(keys, packed)
        unchanged += equal
        zero_base += zeros
        if zeros:
            add_packed(keys[_zero_mask(p)], packed_zero)
        if len(table):
            _count_lower_halves(keys, p, positions, rows, table, table_zero)
    return unchanged, zero_base


@compiled
def count_lower_halves(tuned, base, start, criterion, rows, table, table_zero):
    """Count the lower halves of the keys whose upper half has a row in `table`.

    Those with p = 0 are counted in `table_zero` too.

    Args:
        tuned, base, start, criterion: as for `write_keys`.
        rows: int[BINS], the row of each upper half plus one; 0 for no row.
        table, table_zero: int64[rows, LOWER_HALVES].
    """
    work, positions = np.empty((3, CHUNK), np.uint32), np.empty(CHUNK, np.int64)
    for at in range(0, tuned.size, CHUNK):
        s, p = tuned[at : at + CHUNK], base[at : at + CHUNK]
        keys = work[2, : p.size]
        _chunk_keys(s, p, start + at, criterion, work[:2], keys)
        _count_lower_halves(keys, p, positions, rows, table, table_zero)


@compiled
def _count_lower_halves(keys, p, positions, rows, table, table_zero):
    """Count the lower halves of a chunk of keys, as `count_lower_halves`."""
    # Step 1: collect the positions of keys with a row. A branch here would often be mispredicted,
    # so every position is written, and overwritten by the next one if its key has no row.
    size = 0
    for i in range(keys.size):
        positions[size] = i
        size += rows[keys[i] >> _HALF] != 0
    # Step 2: count them.
    for i in positions[:size]:
        row, low = rows[keys[i] >> _HALF] - 1, keys[i] & _LOW
        table[row, low] += 1
        if _float32_bits(p[i]) & _SIGN_OFF == 0:
            table_zero[row, low] += 1


@compiled
def count_at_thresholds(keys, thresholds, above, equal):
    """Add to `above` and `equal` the number of keys above and equal to each threshold."""
    for at in range(0, keys.size, CHUNK):
        part = keys[at : at + CHUNK]
        for t in range(thresholds.size):
            threshold, chunk_above, chunk_equal = thresholds[t], np.int32(0), np.int32(0)
            for i in range(part.size):
                chunk_above = np.int32(chunk_above + (part[i] > threshold))
                chunk_equal = np.int32(chunk_equal + (part[i] == threshold))
            above[t] += chunk_above
            equal[t] += chunk_equal


@compiled
def mark_chosen(keys, threshold, ties, mask):
    """Mark in `mask` the keys above a threshold and the first `ties` equal to it.

    Returns how many of `ties` are still to be marked in later blocks.
    """
    for i in range(keys.size):
        mask[i] = keys[i] > threshold
        if keys[i] == threshold and ties > 0:
            mask[i] = True
            ties -= 1
    return ties
