"""Fine-tuning with low-rank adapters (LoRA, Appendix C.3), merged into the weights afterwards.

The adapters are peft's. They are put into the network itself and taken out again. So it has the
same tensors before and after, and can be used like any other fine-tuned model.
"""

import warnings
from collections.abc import Callable

import pandas as pd
import torch
from accelerate.utils import set_seed
from peft import LoraConfig, LoraModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from repro.errors import TrainingError
from repro.models.architecture import ALL_LINEAR, PROJECTIONS
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

    Returns what `sft.finetune` does, and `trained`: the number of the adapter's parameters,
    `modules`: the names of the linear maps that it adapted. After an error the network is as it
    was.

    Raises:
        TrainingError: a rank below 1, a module that the network does not have, weights of the
            layers that LoRA cannot adapt, and what `sft.finetune` raises.
    """
    targets = _targets(network, adapter)
    wrapper = _add_adapters(network, recipe, adapter, targets)
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
    return {**result, "trained": trained, "modules": sorted({_last(name) for name in targets})}


def _targets(network: PreTrainedModel, adapter: Adapter) -> list[str]:
    """Return the full names of the linear maps to adapt.

    `PROJECTIONS` and `ALL_LINEAR` mean all weights of the layers, so what they would leave out
    is an error; a choice of the caller's own may leave out what it likes.
    """
    linear = _linear_maps(network)
    names_to_adapt, present = set(adapter.modules), {_last(name) for name in linear}
    if adapter.modules == ALL_LINEAR:
        names_to_adapt = present
    if not names_to_adapt or names_to_adapt - present:
        names = ", ".join(sorted(names_to_adapt - present)) or "nothing"
        raise TrainingError(
            f"LoRA has nothing to adapt: this model has no module named {names}; its linear maps"
            f" are {', '.join(sorted(present))}"
        )
    targets = [name for name in linear if _last(name) in names_to_adapt]
    left_out = _left_out(network, targets)
    if adapter.modules in (ALL_LINEAR, PROJECTIONS) and left_out:
        raise TrainingError(
            f"LoRA would adapt a part of this model only: {', '.join(left_out[:5])} are no linear"
            " maps that it knows, or not among those it was given; fine-tune all parameters instead"
        )
    return targets


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _linear_maps(network: PreTrainedModel) -> list[str]:
    """Return the names of all linear maps but the output head, in the order of the network."""
    head = network.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)  # Conv1D is GPT-2's linear map, with its weight transposed
    return [n for n, m in network.named_modules() if isinstance(m, kinds) and m is not head]


def _left_out(network: PreTrainedModel, targets: list[str]) -> list[str]:
    """Return the weights that no adapter of `targets` moves: no embedding, no norm, no bias."""
    embeddings = [m for m in network.modules() if isinstance(m, torch.nn.Embedding)]
    outside = [*embeddings, network.get_output_embeddings()]
    known = {id(p) for module in outside if module is not None for p in module.parameters()}
    return [
        name
        for name, p in network.named_parameters()
        if p.ndim > 1 and id(p) not in known and name.rpartition(".")[0] not in set(targets)
    ]


def _add_adapters(
    network: PreTrainedModel, recipe: Recipe, adapter: Adapter, targets: list[str]
) -> LoraModel:
    """Put adapters into the network, which alone can be trained then; return peft's wrapper."""
    if adapter.rank < 1:
        raise TrainingError(f"LoRA needs a rank of at least 1, not {adapter.rank}")
    set_seed(recipe.seed)  # one factor of an adapter begins at random
    options = {"r": adapter.rank, "lora_alpha": adapter.alpha}
    with warnings.catch_warnings():
        # peft sees by itself that the weight of a Conv1D is transposed, and warns that it did.
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        return LoraModel(network, LoraConfig(target_modules=targets, **options), "default")
