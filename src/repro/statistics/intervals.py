"""Intervals of a proportion."""

import numpy as np

Z95 = 1.959963984540054  # the standard normal quantile of 97.5 %


def wilson(correct, total, z: float = Z95) -> tuple[np.ndarray, np.ndarray]:
    """Return the Wilson score interval of a proportion, (low, high) in [0, 1].

    `correct` and `total` are numbers or arrays of one shape; total must be positive.
    """
    correct, total = np.asarray(correct, float), np.asarray(total, float)
    p, scale = correct / total, 1 + z**2 / total
    centre = (p + z**2 / (2 * total)) / scale
    half = z / scale * np.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
