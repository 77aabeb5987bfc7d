"""What a fine-tuning is given: a data sample, and how to learn it (§3.3)."""

from dataclasses import dataclass

import pandas as pd

from repro.errors import ConfigError, TrainingError
from repro.facts import sample
from repro.regions import PROJECTIONS


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


@dataclass(frozen=True)
class Adapter:
    """A low-rank update (LoRA, `repro.lora`) of `modules`: A·B of `rank`, scaled by alpha / rank.

    `modules` are names of linear maps, by default all of a LLaMA's layers. The paper gives none.
    """

    rank: int = 8
    alpha: int = 16
    modules: tuple[str, ...] = PROJECTIONS


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
