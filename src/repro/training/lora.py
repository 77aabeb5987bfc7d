"""Fine-tuning with low-rank adapters (LoRA, Appendix C.3), merged into the weights afterwards.

The adapters are peft's. They are put into the network itself and taken out again. So it has the
same tensors before and after, and can be used like any other fine-tuned model.
"""

from collections.abc import Callable

import pandas as pd
import torch
from accelerate.utils import set_seed
from peft import LoraConfig, LoraModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.errors import TrainingError
from repro.training import sft
from repro.training.recipe import Adapter, Recipe


def finetune(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    recipe: Recipe,
    adapter: Adapter,
    progress: Callable[[float], object] | None = None,
    dtype: torch.dtype | None = None,
) -> dict:
    """Train an adapter by `sft.finetune` and merge it into the float32 network, in place.

    Returns what `sft.finetune` does, and `trained`: the number of the adapter's parameters. After
    an error the network is as it was.

    Raises:
        TrainingError: a rank below 1, no module of that name, and what `sft.finetune` raises.
    """
    wrapper = _add_adapters(network, recipe, adapter)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    try:
        result = sft.finetune(network, tokenizer, facts, recipe, progress, dtype)
    except BaseException:
        wrapper.unload()
        raise
    else:
        wrapper.merge_and_unload()
    finally:
        network.requires_grad_(True)
    return {**result, "trained": trained}


def _add_adapters(network: PreTrainedModel, recipe: Recipe, adapter: Adapter) -> LoraModel:
    """Put adapters into the network, which alone can be trained then; return peft's wrapper."""
    if adapter.rank < 1:
        raise TrainingError(f"LoRA needs a rank of at least 1, not {adapter.rank}")
    present = {name.rpartition(".")[2] for name, _ in network.named_modules()}
    if not present & set(adapter.modules):
        names = ", ".join(adapter.modules) or "nothing"
        raise TrainingError(f"LoRA has nothing to adapt: this model has no module named {names}")
    set_seed(recipe.seed)  # one factor of an adapter begins at random
    options = {"r": adapter.rank, "lora_alpha": adapter.alpha}
    config = LoraConfig(target_modules=list(adapter.modules), **options)
    return LoraModel(network, config, "default")
