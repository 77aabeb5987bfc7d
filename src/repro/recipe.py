"""What a fine-tuning is given: a data sample, and how to learn it (§3.3)."""

from dataclasses import dataclass

import pandas as pd

from repro.errors import ConfigError, TrainingError
from repro.facts import sample


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune. Defaults are the paper's (§3.3) and, where it is silent, common ones."""

    learning_rate: float = 1e-5
    batch_size: int = 8
    epochs: int = 1
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: float = 0.0
    seed: int = 0


def choose(pool: pd.DataFrame, size: int | None, number: int, seed: int) -> pd.DataFrame:
    """Draw data sample `number` of `size` facts, balanced over topics (None: the whole pool).

    Raises:
        TrainingError: the pool is empty or too small.
    """
    if pool.empty:
        raise TrainingError("no facts to fine-tune on: the level's pool is empty for this model")
    try:
        # One seed for each data sample; a larger sample holds the smaller one of its number.
        return sample(pool, size, seed * 1000 + number)
    except ConfigError as error:
        raise TrainingError(f"cannot draw {size} facts: {error}") from error
