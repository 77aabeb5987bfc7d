"""Random numbers that depend on a seed and a label only, not on what was drawn before."""

import hashlib
from collections.abc import Sequence

import numpy as np


def uniforms(seed: int, label: str, count: int) -> np.ndarray:
    """Return `count` numbers in [0, 1) that depend on the seed and the label only."""
    # The numbers of a new Philox(key=digest). Setting the state takes a third of the time.
    _START["state"]["key"][:] = np.frombuffer(_digest(seed, label), ">u8")[::-1]
    _PHILOX.bit_generator.state = _START
    return _PHILOX.random(count)


def rows(seed: int, labels: Sequence[str], count: int) -> np.ndarray:
    """Return the `uniforms` of many labels, (labels, count), in half the time of single calls.

    This is NumPy's Philox4x64 with ten rounds, for all keys and counters (1, 2, …) at once.
    """
    digests = b"".join(_digest(seed, label) for label in labels)
    key1, key0 = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2, 1).swapaxes(0, 1)
    a = np.arange(1, -(-count // 4) + 1, dtype=np.uint64) + np.zeros_like(key0)
    b = c = d = np.zeros_like(a)
    for _ in range(10):  # rounds: multiply two of the four words, mix, exchange, next round key
        left, right = _high(_FACTORS[0], a) ^ d ^ key1, _high(_FACTORS[1], c) ^ b ^ key0
        a, b, c, d = right, _FACTORS[1] * c, left, _FACTORS[0] * a
        key0, key1 = key0 + _STEPS[0], key1 + _STEPS[1]
    # Four words of 64 bits for each counter; the upper 53 bits of a word make a float in [0, 1).
    drawn = np.stack([a, b, c, d], axis=-1).reshape(len(labels), 4 * a.shape[1])[:, :count]
    return (drawn >> np.uint64(11)) * 2.0**-53


def _high(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the upper 64 bits of the products, from products of 32-bit halves."""
    x1, x0, y1, y0 = x >> _HALF, x & _LOW, y >> _HALF, y & _LOW
    middle = x1 * y0 + (x0 * y0 >> _HALF)
    return x1 * y1 + (middle >> _HALF) + ((middle & _LOW) + x0 * y1 >> _HALF)


def _digest(seed: int, label: str) -> bytes:
    return hashlib.blake2b(f"{seed}|{label}".encode(), digest_size=16).digest()


_FACTORS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64)
_STEPS = np.array([[0x9E3779B97F4A7C15], [0xBB67AE8584CAA73B]], np.uint64)
_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)
_PHILOX = np.random.Generator(np.random.Philox(key=0))
_START = _PHILOX.bit_generator.state
