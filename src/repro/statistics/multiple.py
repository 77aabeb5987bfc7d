"""Many comparisons at once: simultaneous intervals, adjusted p-values, pooled effects.

One 95 % interval misses the truth once in twenty times. So among twenty comparisons one seems
decided by chance alone. Simultaneous intervals contain all true values of a family with 95 %
probability. Holm's method adjusts p-values so that the probability of any false rejection in a
family is at most the level. Partial conjunction tests whether an effect is there in at least u of k
comparisons: in all of them if u = k, in any of them if u = 1.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95


def simultaneous(
    estimates: np.ndarray, deviations: np.ndarray, level: float = LEVEL
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds (low, high) of intervals that together cover with probability `level`.

    These are max-t intervals: every estimate ± c standard errors, where c is the quantile over
    draws of the largest absolute deviation in standard errors. They take into account how the
    comparisons depend on each other, so they are narrower than Bonferroni's. The interval of an
    estimate whose draws never vary has no width.

    Args:
        estimates: (k,).
        deviations: (draws, k), the joint bootstrap draws less the estimates.
        level: probability that all intervals contain their true values.
    """
    errors = deviations.std(axis=0)
    moving = errors > 0
    if not moving.any():
        return estimates.copy(), estimates.copy()
    largest = np.abs(deviations[:, moving] / errors[moving]).max(axis=1)
    half = np.quantile(largest, level) * errors
    return estimates - half, estimates + half


def widened(distance: np.ndarray, k: int, level: float = LEVEL) -> np.ndarray:
    """Return the distances from estimates to the ends of their intervals, widened for k of them.

    This is Bonferroni's correction by normal quantiles, for comparisons without joint draws.
    """
    single, together = (1 + level) / 2, 1 - (1 - level) / (2 * k)
    return distance * stats.norm.ppf(together) / stats.norm.ppf(single)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values adjusted by Holm's step-down method, in the order given."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted


def partial_conjunction(p_values: Sequence[float], at_least: int) -> float:
    """Return the p-value of "the effect is there in at least `at_least` of the comparisons".

    The null hypothesis is that fewer comparisons have it. The method is that of Benjamini and
    Heller (2008) with Bonferroni's correction: the smallest of the k − u + 1 largest p-values,
    times their number. It is valid for every dependence between the comparisons.

    Raises:
        ValueError: not 1 ≤ at_least ≤ k.
    """
    k = len(p_values)
    if not 1 <= at_least <= k:
        raise ValueError(f"at least {at_least} of {k} comparisons: must be between 1 and {k}")
    largest = k - at_least + 1
    return float(min(1.0, largest * np.sort(np.asarray(p_values, float))[at_least - 1]))


def one_sided_p(estimate: float, low: float, high: float, level: float = LEVEL) -> float:
    """Return the p-value of "the true value is above zero" that fits an interval of `level`.

    It is at most (1 − level) / 2 exactly if `low` is at least 0. The distance from the estimate to
    the end on the side of zero gives the standard error. An interval without width or without ends
    gives 1.
    """
    distance = estimate - low if estimate > 0 else high - estimate
    if not distance > 0:
        return 1.0
    return float(stats.norm.sf(estimate / distance * stats.norm.ppf((1 + level) / 2)))


def pooled(
    estimates: np.ndarray, deviations: np.ndarray, level: float = LEVEL
) -> tuple[float, float, float]:
    """Return the mean effect over the comparisons with its interval, from joint draws.

    Deviations that all comparisons share, such as those of the questions, do not average out. The
    arguments are those of `simultaneous`; the result is (estimate, low, high).
    """
    tail = (1 - level) / 2
    estimate = float(estimates.mean())
    low, high = np.quantile(deviations.mean(axis=1), [tail, 1 - tail])
    return estimate, estimate + float(low), estimate + float(high)


def non_inferior(low: float, high: float, margin: float) -> bool | None:
    """Return whether a loss larger than `margin` is ruled out: True, False, or None if undecided.

    `low` and `high` bound the difference new − old. True: the interval lies above −margin. False:
    it lies below, so the loss is larger than the margin.

    Raises:
        ValueError: the margin is not positive.
    """
    if not margin > 0:
        raise ValueError(f"the margin must be positive, not {margin:g}")
    return True if low > -margin else False if high < -margin else None


def random_effects(
    estimates: np.ndarray, errors: np.ndarray, level: float = LEVEL
) -> tuple[float, float, float, float]:
    """Return the mean of effects that differ between units: estimate, low, high, between.

    `errors` are the standard errors of the k estimates, `between` is the standard deviation of the
    true effects (DerSimonian and Laird). The interval is that of Hartung and Knapp, with k − 1
    degrees of freedom, because it is valid for few units too.

    Raises:
        ValueError: there are fewer than two estimates.
    """
    k = len(estimates)
    if k < 2:
        raise ValueError("an effect over units needs at least two of them")
    fixed = 1 / np.maximum(errors, 1e-12) ** 2
    centre = np.average(estimates, weights=fixed)
    excess = (fixed * (estimates - centre) ** 2).sum() - (k - 1)
    scale = fixed.sum() - (fixed**2).sum() / fixed.sum()
    between = max(0.0, excess / scale)
    weights = 1 / (np.maximum(errors, 1e-12) ** 2 + between)
    mean = float(np.average(estimates, weights=weights))
    spread = (weights * (estimates - mean) ** 2).sum() / (k - 1) / weights.sum()
    # At least as wide as the errors alone make it: the spread of two equal estimates would be 0.
    half = stats.t.ppf((1 + level) / 2, k - 1) * np.sqrt(max(spread, 0.0))
    half = max(half, stats.norm.ppf((1 + level) / 2) / np.sqrt(weights.sum()))
    return mean, mean - float(half), mean + float(half), float(np.sqrt(between))
