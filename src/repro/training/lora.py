"""Fine-tuning with low-rank adapters (LoRA, Appendix C.3), merged into the weights afterwards.

The adapters are those of peft. They are inserted into the network itself and removed again. So the
network has the same tensors before and after, and is used like any other fine-tuned model.
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

    After an error the network is as it was before. The arguments are those of `sft.finetune` and
    the settings of the adapter.

    Returns:
        The dict of `sft.finetune`, with `trained`, the number of parameters of the adapter, and
        `modules`, the names of the linear maps that it adapted.

    Raises:
        TrainingError: the rank is below 1, the network lacks a module or has weights in its layers
            that LoRA cannot adapt, or `sft.finetune` raises it.
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
    return {**result, "trained": trained, "modules": sorted({_last_part(name) for name in targets})}


def _targets(network: PreTrainedModel, adapter: Adapter) -> list[str]:
    """Return the full names of the linear maps to adapt.

    `PROJECTIONS` and `ALL_LINEAR` mean all weights of the layers, so it is an error if they leave
    some out. Any other choice of modules may leave weights out.
    """
    linear = _linear_maps(network)
    names_to_adapt, present = set(adapter.modules), {_last_part(name) for name in linear}
    if adapter.modules == ALL_LINEAR:
        names_to_adapt = present
    if not names_to_adapt or names_to_adapt - present:
        names = ", ".join(sorted(names_to_adapt - present)) or "nothing"
        raise TrainingError(
            f"LoRA has nothing to adapt: this model has no module named {names}; its linear maps"
            f" are {', '.join(sorted(present))}"
        )
    targets = [name for name in linear if _last_part(name) in names_to_adapt]
    left_out = _left_out(network, targets)
    if adapter.modules in (ALL_LINEAR, PROJECTIONS) and left_out:
        raise TrainingError(
            f"LoRA would adapt a part of this model only: {', '.join(left_out[:5])} are no linear"
            " maps that it knows, or not among those it was given; fine-tune all parameters instead"
        )
    return targets


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _linear_maps(network: PreTrainedModel) -> list[str]:
    """Return the names of all linear maps but the output head, in the order of the network."""
    head = network.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)  # Conv1D is GPT-2's linear map, with its weight transposed
    return [n for n, m in network.named_modules() if isinstance(m, kinds) and m is not head]


def _left_out(network: PreTrainedModel, targets: list[str]) -> list[str]:
    """Return the matrices of the layers that no adapter of `targets` changes.

    Embeddings, the output head, norms and biases are not counted.
    """
    embeddings = [m for m in network.modules() if isinstance(m, torch.nn.Embedding)]
    outside = [*embeddings, network.get_output_embeddings()]
    ignored = {id(p) for module in outside if module is not None for p in module.parameters()}
    return [
        name
        for name, p in network.named_parameters()
        if p.ndim > 1 and id(p) not in ignored and name.rpartition(".")[0] not in set(targets)
    ]


def _add_adapters(
    network: PreTrainedModel, recipe: Recipe, adapter: Adapter, targets: list[str]
) -> LoraModel:
    """Insert adapters into the network and freeze all other weights; return peft's wrapper."""
    if adapter.rank < 1:
        raise TrainingError(f"LoRA needs a rank of at least 1, not {adapter.rank}")
    set_seed(recipe.seed)  # one of the two factors of an adapter starts with random values
    options = {"r": adapter.rank, "lora_alpha": adapter.alpha}
    with warnings.catch_warnings():
        # peft handles the transposed weight of a Conv1D, and warns that it does so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        return LoraModel(network, LoraConfig(target_modules=targets, **options), "default")
