"""Counts of several processes added up: whole numbers, so the sums are exact in any order."""

import numpy as np
import torch

from repro.errors import ModelError
from repro.models.devices import processes


def add_up(counts) -> None:
    """Replace the counts of this process by the sums over all processes, in place.

    `counts` has `arrays`, and may have `numbers`, whole numbers by name.
    """
    from accelerate.utils import gather_object  # which the tool for folders need not wait for

    add_up_arrays(counts.arrays)
    if not hasattr(counts, "numbers"):
        return
    summed: dict[str, int] = {}
    for numbers in gather_object([counts.numbers]):
        for name, number in numbers.items():
            summed[name] = summed.get(name, 0) + number
    counts.numbers = summed


def add_up_arrays(arrays: list[np.ndarray]) -> None:
    """Replace int64 arrays by their sums over all processes, in place."""
    from accelerate.utils import reduce

    for array in arrays:
        array[...] = reduce(torch.from_numpy(array).to(processes().device), "sum").cpu().numpy()


def raise_everywhere(error: ModelError | None) -> None:
    """Raise ModelError in every process if one of them has met it."""
    from accelerate.utils import gather_object

    met = [text for text in gather_object([error and str(error)]) if text]
    if met:
        raise ModelError(met[0])
