"""One restored share: the new weights of each block, and the counts of the changed parameters."""

from dataclasses import dataclass, field

import numpy as np
import torch

from repro.errors import ModelError
from repro.restoration import thresholds
from repro.restoration.histograms import Histogram
from repro.restoration.tensor_pairs import Block


@dataclass
class Share:
    """One restored share: its size and, after all blocks were restored, counts of what changed.

    Attributes:
        percent, k, cut: the share, its number of parameters, and how they are chosen (None: all are
            interpolated).
        differ: number of chosen parameters whose values differ between the two models.
        rounded: number of chosen parameters whose pre-trained value the dtype of TUNED cannot hold
            exactly.
        change: histogram of the relative changes of the chosen parameters.
        tensors: number of chosen parameters by tensor.
    """

    percent: float
    k: int
    cut: thresholds.Cut | None = None
    differ: int = 0
    rounded: int = 0
    change: Histogram = field(default_factory=Histogram, repr=False)
    tensors: dict[str, int] = field(default_factory=dict)

    def restore_block(
        self, block: Block, mask: np.ndarray | None, change: np.ndarray
    ) -> torch.Tensor:
        """Return a block with the chosen weights restored, in the dtype of TUNED, and count them.

        Without a mask all weights are interpolated; `change` holds the keys of their changes.
        """
        s, p = block.tuned, block.base
        new = restored_values(s, p, mask, self.percent)
        _check_range(block.name, new, p)
        if mask is None:
            self._count(block, new != s, len(change))
            return new
        chosen = torch.from_numpy(mask)
        self._count(block, chosen & (s != p), int(np.count_nonzero(mask)))
        self.change.add(change[mask])
        if p.dtype != s.dtype:
            self.rounded += int((chosen & (p.to(s.dtype).to(p.dtype) != p)).sum())
        return new

    def _count(self, block: Block, differ: torch.Tensor, chosen: int) -> None:
        self.differ += int(differ.sum())
        self.tensors[block.name] = self.tensors.get(block.name, 0) + chosen


def _check_range(name: str, new: torch.Tensor, base: torch.Tensor) -> None:
    """Raise ModelError if a value of BASE is beyond the range of the dtype of TUNED."""
    narrower = torch.finfo(new.dtype).max < torch.finfo(base.dtype).max
    if narrower and not torch.isfinite(new).all():
        kind = str(new.dtype).removeprefix("torch.")
        raise ModelError(
            f"a value of {name} in BASE, {base.abs().max():g}, is too large for {kind}, the type of"
            " TUNED: convert TUNED to float32 or bfloat16 first"
        )


def restored_values(
    tuned: torch.Tensor, base: torch.Tensor, mask: np.ndarray | None, percent: float
) -> torch.Tensor:
    """Return weights with those in the mask set to their pre-trained values, dtype as `tuned`.

    Without a mask all weights are interpolated: moved by `percent` of the way to the pre-trained
    values.
    """
    if mask is None:
        return torch.lerp(tuned.float(), base.float(), percent / 100).to(tuned.dtype)
    chosen = torch.from_numpy(mask).to(tuned.device)
    return torch.where(chosen, base.to(tuned.dtype), tuned)
