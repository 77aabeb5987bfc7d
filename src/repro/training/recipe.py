"""The settings of a fine-tuning: the optimisation, and the adapter of LoRA (§3.3, C.3)."""

from dataclasses import dataclass

from repro.models.architecture import PROJECTIONS


@dataclass(frozen=True)
class Recipe:
    """The settings of the optimisation: those of the paper (§3.3), else common ones.

    The optimiser is AdamW. The learning rate rises for the first steps, and falls to 0 along a
    cosine.

    Attributes:
        learning_rate: the highest learning rate.
        batch_size: examples in a step.
        epochs: passes over the data.
        weight_decay: of AdamW.
        clip: the largest norm of the gradient.
        warmup: the share of the steps in which the learning rate rises.
        seed: of the order of the examples.
    """

    learning_rate: float = 1e-5
    batch_size: int = 8
    epochs: int = 1
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Adapter:
    """The settings of a low-rank update A·B (LoRA), scaled by alpha / rank. The paper gives none.

    Attributes:
        rank: of the update.
        alpha: see above.
        modules: names of the linear maps that are updated, by default all in the layers of LLaMA;
            `ALL_LINEAR` means all in the layers of any model.
    """

    rank: int = 8
    alpha: int = 16
    modules: tuple[str, ...] = PROJECTIONS
