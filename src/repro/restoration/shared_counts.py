"""Adds up the counts of several processes: they are integers, so sums are exact in any order."""

import numpy as np
import torch

from repro.errors import ModelError
from repro.models.devices import processes


def add_up(counts) -> None:
    """Replace the counts of this process by the sums over all processes, in place.

    `counts` has `arrays`, and may have `numbers`, integers by name.
    """
    from accelerate.utils import gather_object  # slow to load; `repro restore` does not need it

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
    """Raise ModelError in every process if one of them gives an error here."""
    from accelerate.utils import gather_object

    messages = [text for text in gather_object([error and str(error)]) if text]
    if messages:
        raise ModelError(messages[0])
