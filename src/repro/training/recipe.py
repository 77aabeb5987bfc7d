"""The settings of a fine-tuning: the optimisation, and the adapter of LoRA (§3.3, C.3)."""

from dataclasses import dataclass

from repro.models.architecture import PROJECTIONS


@dataclass(frozen=True)
class Recipe:
    """The settings of the optimisation: the paper's (§3.3), and where it gives none, common ones.

    `epochs` passes over the data in batches of `batch_size` examples, by AdamW with
    `weight_decay`. The learning rate rises for the share `warmup` of the steps and falls to 0
    along a cosine; the norm of the gradient is at most `clip`.
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
    """A low-rank update (LoRA, `lora`) of `modules`: A·B of `rank`, scaled by alpha / rank.

    `modules` are names of linear maps, by default all of a LLaMA's layers; `ALL_LINEAR` means all
    of any model's layers. The paper gives none.
    """

    rank: int = 8
    alpha: int = 16
    modules: tuple[str, ...] = PROJECTIONS
