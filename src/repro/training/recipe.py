"""What a fine-tuning is given: a data sample, and how to learn it (§3.3)."""

from dataclasses import dataclass

from repro.restoration.regions import PROJECTIONS


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
    """A low-rank update (LoRA, `lora`) of `modules`: A·B of `rank`, scaled by alpha / rank.

    `modules` are names of linear maps, by default all of a LLaMA's layers. The paper gives none.
    """

    rank: int = 8
    alpha: int = 16
    modules: tuple[str, ...] = PROJECTIONS
