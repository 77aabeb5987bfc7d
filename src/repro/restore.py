"""Which parameters fine-tuning changed most, and giving a share of them back (§5, App. B.2).

For a network in memory, and with `restore_folder` from checkpoint to checkpoint.
"""

from contextlib import contextmanager

import torch

from repro.blocks import Weights
from repro.folders import Models, Settings, Work
from repro.folders import restore as restore_folder
from repro.ranking import (
    Cut,
    Ranking,
    by_tensor,
    concentration,
    how_many,
    rank,
    selected,
    selection,
    thresholds,
)

__all__ = [
    "Cut", "Models", "Ranking", "Settings", "Work", "by_tensor", "concentration", "how_many",
    "rank", "restore_folder", "restored", "selected", "snapshot", "thresholds", "write",
]  # fmt: skip


@contextmanager
def restored(
    network: torch.nn.Module,
    base: Weights,
    tuned: Weights,
    ranking: Ranking,
    percent: float,
    cut: Cut | None = None,
):
    """Give the most changed parameters their pre-trained values, and take them back on exit.

    Args:
        network: holds `tuned`, in any dtype.
        base: weights before fine-tuning; tuned: after. Left as they are.
        ranking: of this pair, from `rank`; one ranking serves all percentages.
        percent: of the ranked parameters, 0 to 100.
        cut: from `thresholds`, to find it once for several uses.

    After the block the network has the bits of `tuned` in its own dtype again.
    """
    parameters = dict(network.named_parameters())
    cut = cut or thresholds(ranking, [percent])[percent]
    try:
        with torch.no_grad():
            for block, _, (mask,) in selection(ranking, [cut], 0):
                name, shape = block.name, base[block.name].shape
                there = torch.from_numpy(mask).view(shape).to(base[name].device)
                parameters[name].copy_(torch.where(there, base[name], tuned[name]))
        yield cut.k
    finally:
        with torch.no_grad():
            for name in ranking.shapes:
                parameters[name].copy_(tuned[name])


def snapshot(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters, tied ones once."""
    return {name: p.detach().clone() for name, p in network.named_parameters()}


@torch.no_grad()
def write(network: torch.nn.Module, weights: Weights) -> None:
    """Copy weights into a network of the same shape, in place and in its own dtype."""
    for name, parameter in network.named_parameters():
        parameter.copy_(weights[name])
