"""Restores the parameters that fine-tuning changed most, in a network in memory (§5, App. B.2).

`repro.restoration.restore_folder` does the same with checkpoints on disk.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from repro.models.shards import copy_into, parameters
from repro.restoration.checkpoint_pair import INTERPOLATE, Models, Settings, Work
from repro.restoration.concentration import by_tensor, concentration
from repro.restoration.ranking import Ranking, how_many, rank
from repro.restoration.restore_folder import restore as restore_folder
from repro.restoration.restored_share import restored_values
from repro.restoration.tensor_pairs import Block, Pair, Weights, pair
from repro.restoration.thresholds import Cut, selected, selection, thresholds

__all__ = [
    "INTERPOLATE", "Change", "Cut", "Models", "Pair", "Ranking", "Settings", "Work", "by_tensor",
    "change", "concentration", "how_many", "interpolated", "pair", "rank", "restore_folder",
    "restored", "selected", "snapshot", "thresholds", "write",
]  # fmt: skip


@dataclass
class Change:
    """Size of a change of weights, summed in float64.

    Attributes:
        k: number of parameters that are set back.
        l1: by how much the sum of |s − p| becomes smaller.
        l2: by how much the sum of (s − p)² becomes smaller.
    """

    k: int = 0
    l1: float = 0.0
    l2: float = 0.0

    def add(self, k: int, block: Block, new: torch.Tensor) -> None:
        """Add a block whose weights become `new`, of which `k` move to their pre-trained values."""
        moved = block.tuned.float() - new.float()
        # With s tuned, p base and m new: (s − p)² − (m − p)² = (s − m)(s + m − 2p).
        factor = moved + 2 * (new.float() - block.base.float())
        self.k += k
        self.l1 += float(moved.abs().sum(dtype=torch.float64))
        self.l2 += float((moved * factor).sum(dtype=torch.float64))


def change(pair: Pair) -> Change:
    """Return the whole change from the pre-trained to the fine-tuned weights of a region."""
    total = Change()
    for block in pair.blocks():
        total.add(len(block.tuned), block, block.base)
    return total


@contextmanager
def restored(
    network: torch.nn.Module,
    base: Weights,
    tuned: Weights,
    ranking: Ranking,
    percent: float,
    cut: Cut | None = None,
) -> Iterator[Change]:
    """Set the highest ranked parameters to their pre-trained values, and undo it on exit.

    Args:
        network: holds the weights `tuned`, in any dtype; whole, or divided by FSDP2.
        base: weights before fine-tuning; they are not changed.
        tuned: weights after fine-tuning; they are not changed.
        ranking: of this pair, from `rank`; one ranking serves all percentages.
        percent: of the ranked parameters, 0 to 100.
        cut: from `thresholds`, if it is already known.

    Yields the `Change` that was undone. On exit the network has the bits of `tuned`, in its own
    dtype, again.
    """
    cut = cut or thresholds(ranking, [percent])[percent]
    chosen = ((block, masks[0]) for block, _, masks in selection(ranking, [cut], 0))
    with _changed(network, tuned, ranking.shapes, chosen, percent) as undone:
        yield undone


@contextmanager
def interpolated(network: torch.nn.Module, pair: Pair, percent: float) -> Iterator[Change]:
    """Move all parameters of a region by a share of the way to their pre-trained values.

    This is the strategy `interpolate` of `repro restore`, in memory. Arguments and result are those
    of `restored`; the change is undone on exit.

    Raises:
        ConfigError: the percentage is not between 0 and 100.
    """
    how_many(pair.parameters, percent)  # raises ConfigError for an invalid percentage
    all_blocks = ((block, None) for block in pair.blocks(0))
    with _changed(network, pair.tuned, pair.shapes, all_blocks, percent) as undone:
        yield undone


@contextmanager
def _changed(
    network: torch.nn.Module,
    tuned: Weights,
    shapes: Mapping[str, torch.Size],
    chosen: Iterable[tuple[Block, np.ndarray | None]],
    percent: float,
) -> Iterator[Change]:
    """Restore the chosen parameters of each block, and set all of them back on exit.

    Args:
        network: holds the weights `tuned`.
        tuned: the weights that are set again on exit.
        shapes: the shape of each tensor of the region.
        chosen: pairs of (block, mask of the chosen parameters); the mask is None to interpolate.
        percent: of the way to the pre-trained values, to interpolate.
    """
    by_name, undone = parameters(network), Change()
    try:
        with torch.no_grad():
            for block, mask in chosen:
                new = restored_values(block.tuned, block.base, mask, percent)
                copy_into(by_name[block.name], new.view(shapes[block.name]))
                undone.add(len(new) if mask is None else int(mask.sum()), block, new)
        yield undone
    finally:
        with torch.no_grad():
            for name in shapes:
                copy_into(by_name[name], tuned[name])


def snapshot(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters by name; tied ones appear once."""
    return {name: p.detach().clone() for name, p in network.named_parameters()}


@torch.no_grad()
def write(network: torch.nn.Module, weights: Weights) -> None:
    """Copy weights into a network of the same shape, in place and in its own dtype."""
    for name, parameter in parameters(network).items():
        copy_into(parameter, weights[name])
