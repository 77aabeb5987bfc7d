"""Picks the next token: the most probable one, or one drawn from the full softmax (§3.3).

Samples are exact and reproducible. The random number of a sample depends on the seed, its label and
the step only, so neither the batch nor the number of processes changes the tokens drawn.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numba import njit

from repro import random_streams
from repro.errors import ModelError
from repro.inference.compiled import keeps
from repro.inference.cpu.cpu_kernels import exp, load

IS_CACHED = keeps(__file__)  # between processes
_compiled = njit(nogil=True, cache=IS_CACHED, error_model="numpy")
BLOCK = 256  # vocabulary entries per block of the two-level sampler
CHUNK = 1 << 20  # logits drawn from at a time on a CPU, so that they stay in its caches

# (logits of the rows, row of each sample, each sample's index, step) → token of each sample
Pick = Callable[[torch.Tensor, torch.Tensor, np.ndarray, int], torch.Tensor]


def check_logits(logits: torch.Tensor) -> None:
    """Raise ModelError if there is a NaN: a broken model would look like an ignorant one."""
    if logits.amax(-1).isnan().any():
        raise ModelError(
            "the model's logits are NaN: its weights are damaged, or were fine-tuned at too large"
            " a learning rate"
        )


def greedy(
    logits: torch.Tensor, row_of: torch.Tensor, samples: np.ndarray, step: int
) -> torch.Tensor:
    """Pick the most probable token of each sample's row, the first of equals."""
    if logits.device.type == "cpu":
        if logits.dtype is torch.bfloat16:
            return torch.from_numpy(_first_largest(_bits(logits)))[row_of]
        logits = logits.float()
        largest = logits.amax(-1).detach().numpy()
        return torch.from_numpy(_first_equal(logits.detach().numpy(), largest))[row_of]
    return logits.argmax(-1)[row_of]


@_compiled
def _first_equal(logits, value):
    """Return the first index of each row at which it holds its `value`.

    PyTorch's `argmax` takes four times as long as `amax` and this function.
    """
    tokens = np.zeros(len(logits), np.int64)
    for row in range(len(logits)):
        for token in range(logits.shape[1]):
            if logits[row, token] == value[row]:
                tokens[row] = token
                break
    return tokens


def labels_of_draws(label: str, draws: int) -> list[str]:
    """Return the label of each draw of a prompt; it names the random numbers of the draw."""
    return [f"{label}|{number}" for number in range(draws)]


def sampler(labels: Sequence[str], steps: int, temperature: float, seed: int) -> Pick:
    """Return a `Pick` that draws from the full softmax at `temperature` (§3.3).

    Samples with the same tokens so far share a row, but each has its own random numbers. So they
    are independent samples whose common beginning is computed once.
    """
    numbers = random_streams.rows(seed, labels, steps)

    def pick(logits, row_of, samples, step):
        u = torch.from_numpy(numbers[samples, step]).to(logits.device)
        return draw(logits, u, row_of, temperature)

    return pick


def draw(
    logits: torch.Tensor,
    u: torch.Tensor,
    row_of: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Invert the cumulative distribution in two levels: a block, then a token inside it.

    Args:
        logits: (rows, vocabulary).
        u: (samples,), float64 in [0, 1).
        row_of: (samples,), the row each sample draws from; by default one sample per row.
        temperature: the logits are divided by it.

    Returns:
        Token ids (samples,), distributed exactly as softmax(logits / temperature).
    """
    if row_of is None:
        row_of = torch.arange(len(logits), device=logits.device)
    if logits.device.type == "cpu" and logits.dtype is torch.bfloat16:
        arrays = _bits(logits), np.float32(1 / temperature), u.numpy(), row_of.numpy()
        return torch.from_numpy(_draw_from_bfloat16(*arrays, BLOCK))
    if logits.device.type != "cpu":  # all rows at once: a GPU gains nothing from its caches here
        return _draw((logits.float() / temperature).softmax(-1), u, row_of)
    tokens = torch.empty_like(row_of)
    size = max(1, CHUNK // logits.shape[-1])
    for start in range(0, len(logits), size):
        inside = ((row_of >= start) & (row_of < start + size)).nonzero()[:, 0]
        part = logits[start : start + size].float() / temperature
        tokens[inside] = _draw(part.softmax(-1), u[inside], row_of[inside] - start)
    return tokens


def _draw(p: torch.Tensor, u: torch.Tensor, row_of: torch.Tensor) -> torch.Tensor:
    if p.shape[-1] % BLOCK:
        p = torch.nn.functional.pad(p, (0, -p.shape[-1] % BLOCK))
    blocks = p.view(len(p), -1, BLOCK)
    sums = blocks.sum(-1)
    if p.device.type == "cpu":
        arrays = (tensor.detach().numpy() for tensor in (sums, blocks, u, row_of))
        return torch.from_numpy(_draw_each(*arrays))
    return _draw_together(sums, blocks, u, row_of)


def _draw_together(sums, blocks, u, row_of):
    block, rest = _invert(sums[row_of], u)
    token, _ = _invert(blocks[row_of, block], rest)
    return block * BLOCK + token


def _invert(weights: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the index drawn, and the position of `u` within its mass, in [0, 1), for level two."""
    upto = weights.double().cumsum(-1)
    target = (u * upto[:, -1])[:, None]
    index = torch.searchsorted(upto, target, right=True).clamp(max=weights.shape[-1] - 1)
    mass = weights.double().gather(-1, index)
    inside = (target - (upto.gather(-1, index) - mass)) / mass
    return index[:, 0], inside[:, 0].clamp(0, 1 - 1e-12)


# The same on a CPU, sample by sample. No block is copied, and a drawn block is read only up to the
# token. All numbers are the same, and so are the tokens.


@_compiled
def _draw_each(sums, blocks, u, row_of):
    """Return the token of each sample: draw a block of its row, then a token of the block."""
    tokens = np.empty(len(row_of), np.int64)
    for i in range(len(row_of)):
        block, rest = _invert_one(sums[row_of[i]], u[i])
        token, _ = _invert_one(blocks[row_of[i], block], rest)
        tokens[i] = block * blocks.shape[2] + token
    return tokens


@_compiled
def _invert_one(weights, u):
    """Return the index drawn from weights by `u`, and the position of `u` within its mass."""
    total, upto, mass = 0.0, 0.0, 0.0
    for weight in weights:
        total += weight
    index, target = len(weights) - 1, u * total
    for i in range(len(weights)):
        mass = np.float64(weights[i])
        upto += mass
        if upto > target:
            index = i
            break
    inside = (target - (upto - mass)) / mass
    return index, min(max(inside, 0.0), 1 - 1e-12)


# Sampling from the bits of bfloat16 logits on a CPU. Softmax and sums are computed in one pass over
# the logits, because a vocabulary of a quarter of a million takes longer to read and write in
# float32 than a small layer takes to compute.


def _bits(logits: torch.Tensor) -> np.ndarray:
    return logits.detach().view(torch.uint16).numpy()


@njit(inline="always")
def _flipped(number):
    """Return an integer with the order of the bfloat16 whose bits, as a signed integer, are given.

    Applied twice, it returns the bits again. Negative floats have the opposite order of their bits,
    so all their bits but the sign are flipped.
    """
    return np.int32(number ^ ((number >> np.int32(31)) & np.int32(0x7FFF)))


@_compiled
def _largest(bits):
    """Return the largest of bfloat16 numbers as a float32; NaN if one of them is NaN.

    Integers are compared, because a maximum of integers is vectorised and one of floats is not.
    """
    top = np.int32(-0x8000)
    for i in range(len(bits)):
        number = _flipped(np.int32(np.int16(bits[i])))
        if number > top:
            top = number
    return load(np.uint16(_flipped(top)))


@_compiled
def _first_largest(bits):
    """Return the first index of each row at which it holds its largest number."""
    tokens = np.zeros(len(bits), np.int64)
    for row in range(len(bits)):
        top = _largest(bits[row])
        for token in range(bits.shape[1]):
            if load(bits[row, token]) == top:
                tokens[row] = token
                break
    return tokens


@njit(
    nogil=True,
    cache=IS_CACHED,
    error_model="numpy",
    fastmath={"reassoc", "contract", "nsz", "arcp"},
)
def _exponentials(bits, top, inverse_temperature, out):
    """Write e^((logit − top) / temperature) to `out`, and return the sum."""
    total = np.float32(0)
    for j in range(len(bits)):
        out[j] = exp((load(bits[j]) - top) * inverse_temperature)
        total += out[j]
    return total


@_compiled
def _draw_from_bfloat16(bits, inverse_temperature, u, row_of, size):
    """Return the token of each sample, drawn from the softmax of bfloat16 logits.

    Args:
        bits: uint16 (rows, vocabulary), the bits of the logits.
        inverse_temperature: 1 / temperature.
        u: (samples,), in [0, 1).
        row_of: (samples,), the row from which each sample draws.
        size: of a block of the vocabulary.
    """
    count = (bits.shape[1] + size - 1) // size
    tops, sums = np.empty(count, np.float32), np.empty((len(bits), count), np.float32)
    numbers = np.empty(size, np.float32)
    # Step 1: the sum of e^(logit / T) of each block, relative to its own largest logit; then the
    # sums of the blocks of a row are made relative to the largest logit of the row.
    for row in range(len(bits)):
        for block in range(count):
            part = bits[row, block * size : (block + 1) * size]
            tops[block] = _largest(part)
            sums[row, block] = _exponentials(part, tops[block], inverse_temperature, numbers)
        top = tops.max()
        for block in range(count):
            sums[row, block] *= exp((tops[block] - top) * inverse_temperature)
    # Step 2: draw a block for each sample, compute its numbers again, and draw a token in it.
    tokens = np.empty(len(row_of), np.int64)
    for i in range(len(row_of)):
        row = row_of[i]
        block, rest = _invert_one(sums[row], u[i])
        part = bits[row, block * size : (block + 1) * size]
        _exponentials(part, _largest(part), inverse_temperature, numbers)
        token, _ = _invert_one(numbers[: len(part)], rest)
        tokens[i] = block * size + token
    return tokens
