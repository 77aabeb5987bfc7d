"""Which parameters fine-tuning changed most, and giving a share of them back (§5, App. B.2)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd
import torch

from repro.errors import ConfigError, ModelError

Weights = Mapping[str, torch.Tensor]
EPSILON = 1e-8

# The region of the authors' released tool: every weight inside a layer except the norms.
REGIONS = {"transformer": re.compile(r"^(?!.*norm).*layers")}


@dataclass(frozen=True)
class Ranking:
    """Scores of one pair of models: a flat float32 array over the tensors of a region.

    `zero_base` holds the flat positions of parameters with p = 0, whose score is |s| / 1e-8;
    `unchanged` counts those with s = p.
    """

    shapes: dict[str, torch.Size]
    scores: np.ndarray
    zero_base: np.ndarray
    unchanged: int

    @property
    def size(self) -> int:
        """Number of parameters ranked."""
        return len(self.scores)


def score(tuned: torch.Tensor, base: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
    """Return the relative change |s − p| / (|p| + 1e-8) of each parameter, in float32.

    `dtype=torch.bfloat16` does each step in bfloat16, as the authors' released tool does.
    """
    s, p = tuned.to(dtype), base.to(dtype)
    return ((s - p).abs() / (p.abs() + EPSILON)).float()


def rank(
    base: Weights, tuned: Weights, region: str = "transformer", score_dtype=torch.float32
) -> Ranking:
    """Score every parameter of a region (r_i of Appendix B.2).

    Args:
        base: name → weights before fine-tuning.
        tuned: name → weights afterwards; the same names and shapes.
        region: a name of `REGIONS`, or a regular expression searched in tensor names.
        score_dtype: arithmetic of the score.

    Raises:
        ConfigError: the region matches nothing, or is no regular expression.
        ModelError: a tensor is missing, differs in shape, or holds NaN or infinity.
    """
    names = region_names(base, region)
    parts, zeros, unchanged, start = [], [], 0, 0
    for name in names:
        p, s = base[name], _partner(name, base, tuned)
        part = score(s, p, score_dtype).flatten()
        if not torch.isfinite(part).all():
            raise ModelError(f"{name} holds NaN or infinity in one of the models")
        parts.append(part.numpy(force=True))
        zeros.append(start + np.flatnonzero((p == 0).numpy(force=True)))
        unchanged += int((s == p).sum())
        start += p.numel()
    shapes = {name: base[name].shape for name in names}
    return Ranking(shapes, np.concatenate(parts), np.concatenate(zeros), unchanged)


def region_names(weights: Weights, region: str) -> list[str]:
    """Return the tensors of a region in the order of the model."""
    try:
        pattern = REGIONS.get(region) or re.compile(region)
    except re.error as error:
        raise ConfigError(f"region {region!r} is not a regular expression: {error}") from error
    if names := [name for name in weights if pattern.search(name)]:
        return names
    raise ConfigError(f"region {region!r} matches no tensor; try one of {', '.join(REGIONS)}")


def _partner(name: str, base: Weights, tuned: Weights) -> torch.Tensor:
    if name not in tuned:
        raise ModelError(f"{name} is missing from the fine-tuned model")
    if tuned[name].shape != base[name].shape:
        shapes = f"{tuple(base[name].shape)} and {tuple(tuned[name].shape)}"
        raise ModelError(f"{name} has different shapes in the two models: {shapes}")
    return tuned[name]


def how_many(size: int, percent: float) -> int:
    """Return floor(percent · size / 100), exactly, for the percentage as it is written.

    Raises:
        ConfigError: the percentage is not between 0 and 100.
    """
    if not 0 <= percent <= 100:
        raise ConfigError(f"cannot restore {percent} %: give a percentage from 0 to 100")
    # Through the decimal text: 0.29 means 29/100, not the binary number next to it.
    return int(Fraction(str(percent)) * size / 100)


def thresholds(ranking: Ranking, percents: Sequence[float]) -> dict[float, float]:
    """Return, per percentage, the smallest score that is restored (inf where none is)."""
    counts = {x: how_many(ranking.size, x) for x in percents}
    places = sorted({ranking.size - k for k in counts.values() if k})
    ordered = np.partition(ranking.scores, places) if places else ranking.scores
    return {x: float(ordered[ranking.size - k]) if k else np.inf for x, k in counts.items()}


def selected(ranking: Ranking, percent: float, threshold: float | None = None) -> np.ndarray:
    """Return a flat boolean mask of exactly floor(percent · n / 100) parameters.

    The highest scores are chosen; where scores tie at the threshold, those that come first in
    the order of tensors and positions.
    """
    if threshold is None:
        threshold = thresholds(ranking, [percent])[percent]
    mask = ranking.scores > np.float32(threshold)
    missing = how_many(ranking.size, percent) - int(mask.sum())
    if missing:
        mask[np.flatnonzero(ranking.scores == np.float32(threshold))[:missing]] = True
    return mask


def concentration(ranking: Ranking, percents: Sequence[float]) -> pd.DataFrame:
    """Return the share of the total change that the most changed parameters hold (Table 3).

    Returns:
        DataFrame[top_percent, share_of_change_percent, without_zero_base_percent, k, n,
        threshold, moved, zero_base, unchanged]. Sums are in float64. `moved` counts the k that
        differ at all; `zero_base` and `unchanged` count the parameters with p = 0 and s = p in
        the whole region. One with p = 0 that moved has a score of |s| / 1e-8 and outweighs
        thousands, so `without_zero_base_percent` is the same share with those left out of the
        chosen and of the total.
    """
    scores = ranking.scores
    total = scores.sum(dtype=np.float64)
    others = np.ones(ranking.size, bool)
    others[ranking.zero_base] = False
    # Summed apart: a difference of large sums would lose the digits of the small one.
    rest = scores.sum(dtype=np.float64, where=others)
    rows = []
    for percent, threshold in thresholds(ranking, percents).items():
        mask = selected(ranking, percent, threshold)
        held = scores[mask].sum(dtype=np.float64)
        kept = scores.sum(dtype=np.float64, where=mask & others)
        rows.append(
            {
                "top_percent": percent,
                "share_of_change_percent": float(100 * held / total) if total else 0.0,
                "without_zero_base_percent": float(100 * kept / rest) if rest else 0.0,
                "k": int(mask.sum()),
                "n": ranking.size,
                "threshold": None if np.isinf(threshold) else threshold,
                "moved": int(np.count_nonzero(scores[mask])),
                "zero_base": len(ranking.zero_base),
                "unchanged": ranking.unchanged,
            }
        )
    return pd.DataFrame(rows)


def masks(ranking: Ranking, flat: np.ndarray) -> Iterator[tuple[str, torch.Tensor]]:
    """Split a flat mask into one boolean tensor per ranked tensor."""
    start = 0
    for name, shape in ranking.shapes.items():
        stop = start + shape.numel()
        yield name, torch.from_numpy(flat[start:stop]).view(shape)
        start = stop


@contextmanager
def restored(
    network: torch.nn.Module,
    base: Weights,
    tuned: Weights,
    ranking: Ranking,
    percent: float,
    threshold: float | None = None,
):
    """Give the most changed parameters their pre-trained values, and take them back on exit.

    Args:
        network: holds `tuned`, in any dtype.
        base: weights before fine-tuning; tuned: after. Left as they are.
        ranking: of this pair, from `rank`; one ranking serves all percentages.
        percent: of the ranked parameters, 0 to 100.
        threshold: from `thresholds`, to find it once for several uses.

    After the block the network has the bits of `tuned` in its own dtype again.
    """
    parameters = dict(network.named_parameters())
    flat = selected(ranking, percent, threshold)
    try:
        with torch.no_grad():
            for name, mask in masks(ranking, flat):
                mixed = torch.where(mask.to(base[name].device), base[name], tuned[name])
                parameters[name].copy_(mixed)
        yield int(flat.sum())
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
