"""Supervised fine-tuning on question–answer pairs (§3.3, Appendix A).

One general path: padded batches, and the processes and devices that `accelerate launch` gives.
Where a network allows it, a batch is packed into one row instead, or becomes a prefix tree for
`repro.inference.cpu.cpu_engine`: see `repro.training.batches`. `benchmarks/finetuning.py` times
it against TRL.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedType, set_seed
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from repro.errors import TrainingError
from repro.inference.allocator import keep_pages
from repro.inference.cpu.cpu_engine import CpuEngine
from repro.models.devices import inference_dtype
from repro.training.batches import Batch, batch_function
from repro.training.prompts import IGNORED, Example, encode_examples
from repro.training.recipe import Recipe


def finetune(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    recipe: Recipe,
    progress: Callable[[float], object] | None = None,
    dtype: torch.dtype | None = None,
) -> dict:
    """Fine-tune all parameters of a float32 network in place.

    Args:
        network: float32 master weights; or a LLaMA as `CpuEngine`, which computes in its own dtype.
        tokenizer: its tokenizer.
        facts: DataFrame[question, object, …].
        recipe: learning rate, batch size and the rest.
        progress: called with the loss after each step.
        dtype: of the matrix products: float32, or bfloat16 (autocast); by default
            `inference_dtype`, the faster of the two.

    Returns:
        dict(loss=[one number per step], steps, tokens, seconds).

    Raises:
        TrainingError: no facts, an example without an answer token, or a loss that is not finite.
    """
    examples = encode_examples(tokenizer, facts["question"], facts["object"])
    start = time.perf_counter()
    if isinstance(network, CpuEngine):
        dtype = network.dtype
    dtype = dtype or inference_dtype(network.device)
    keep_pages()
    losses = _train(network, examples, recipe, progress, dtype)
    return {
        "loss": losses,
        "steps": len(losses),
        "tokens": sum(len(ids) for ids, _ in examples) * recipe.epochs,
        "seconds": time.perf_counter() - start,
    }


@dataclass
class Training:
    """What the steps of one fine-tuning share.

    `model` computes: the network as accelerate wraps it, or a `CpuEngine`, which is not wrapped
    because it runs alone on a CPU, where the wrapping would take a tenth of the time.
    """

    accelerator: Accelerator
    network: PreTrainedModel
    model: torch.nn.Module | CpuEngine
    optimizer: torch.optim.Optimizer
    loader: DataLoader
    schedule: LRScheduler


def _train(model, examples, recipe, progress, dtype) -> list[float]:
    """Train and return the loss of each step; leave the network as an ordinary network."""
    network = _network(model)
    attributes = set(vars(network))
    training = _prepare(model, examples, recipe, dtype)
    try:
        with _sparse_lookup(training.accelerator, network) as table:
            return _steps(training, table, recipe, progress)
    finally:
        # The network is the caller's and is used again, also after an error or an interrupt.
        # accelerate replaces its `forward` and marks it as prepared, which would keep the next
        # run from autocast, and unwrapping leaves both.
        if model is network:
            training.accelerator.unwrap_model(training.model, keep_fp32_wrapper=False)
            training.accelerator.free_memory()
        training.optimizer.state.clear()  # the schedule refers back to it, so it is not freed
        for name in vars(network).keys() - attributes:
            delattr(network, name)
        network.zero_grad()
        network.eval()


def _network(model: PreTrainedModel | CpuEngine) -> PreTrainedModel:
    return model.network if isinstance(model, CpuEngine) else model


def _prepare(
    model: PreTrainedModel | CpuEngine,
    examples: Sequence[Example],
    recipe: Recipe,
    dtype: torch.dtype = torch.float32,
) -> Training:
    """Return what training needs, with the seed set.

    Raises:
        TrainingError: no examples, or one of them cannot be learned by this network.
    """
    network = _network(model)
    _check_examples(examples, getattr(network.config, "max_position_embeddings", math.inf))
    set_seed(recipe.seed)
    precision = "bf16" if dtype is torch.bfloat16 else "no"
    accelerator = (
        Accelerator(  # `CpuEngine` rounds by itself, whatever autocast the process began with
            mixed_precision=precision if model is network else None,
            dataloader_config=DataLoaderConfiguration(split_batches=True),
        )
    )
    order = torch.Generator().manual_seed(recipe.seed)
    join = batch_function(model, max(len(ids) for ids, _ in examples))
    loader = DataLoader(examples, recipe.batch_size, shuffle=True, generator=order, collate_fn=join)
    steps = math.ceil(len(examples) / recipe.batch_size) * recipe.epochs
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, int(recipe.warmup * steps), steps)
    parts = (model, optimizer, loader, schedule)
    return Training(
        accelerator, network, *(accelerator.prepare(*parts) if model is network else parts)
    )


def _check_examples(examples: Sequence[Example], longest: float) -> None:
    """Raise TrainingError if there is no example, or one has no loss or more than `longest` ids."""
    if not examples:
        raise TrainingError("no facts to fine-tune on: the pool is empty")
    for ids, labels in examples:
        if all(label == IGNORED for label in labels):
            raise TrainingError("an example has no answer token, so its loss would be undefined")
        if len(ids) > longest:
            raise TrainingError(f"an example of {len(ids)} tokens is too long for this model")


def _steps(training: Training, table, recipe: Recipe, progress) -> list[float]:
    """Take all steps of AdamW and return the loss of each."""
    losses, parameters = [], list(training.network.parameters())
    training.network.train()
    for _ in range(recipe.epochs):
        for batch in training.loader:
            loss = _backward(training.accelerator, training.model, batch, table)
            _clip(training.accelerator, parameters, recipe.clip)
            training.optimizer.step()
            training.schedule.step()
            training.optimizer.zero_grad(set_to_none=True)
            losses.append(_finite(loss, len(losses), recipe))
            if progress:
                progress(losses[-1])
    return losses


def _backward(accelerator: Accelerator, model, batch: Batch, table) -> float:
    """Add the gradient of the mean loss per answer token; return that loss.

    The mean is over the whole batch, however many processes share it.
    """
    answers = accelerator.reduce((batch["targets"] != IGNORED).sum().float(), "mean")
    packed = "parents" in batch or batch["attention_mask"].dim() == 4
    # A packed row can be given as embeddings, whose gradient goes to the table by itself.
    looked_up = packed and table is not None
    if looked_up:
        rows = table(batch.pop("input_ids"))
        batch["inputs_embeds"] = rows.detach().requires_grad_()
    loss = _loss(model, batch) / answers
    if isinstance(model, CpuEngine):
        loss.backward()
    else:
        accelerator.backward(loss)
    if looked_up:
        rows.backward(batch["inputs_embeds"].grad)
    return accelerator.reduce(loss.detach(), "mean").item()


def _loss(model, batch: Batch) -> torch.Tensor:
    """Return the sum of the losses of a batch's answer tokens."""
    inputs = {name: value for name, value in batch.items() if name != "targets"}
    if isinstance(model, CpuEngine):
        logits = model.tree_logits(**inputs)
    else:
        logits = model(**inputs, use_cache=False).logits.flatten(0, 1)
    return torch.nn.functional.cross_entropy(
        logits.float(), batch["targets"], ignore_index=IGNORED, reduction="sum"
    )


@contextmanager
def _sparse_lookup(
    accelerator: Accelerator, network: PreTrainedModel
) -> Iterator[torch.nn.Embedding | None]:
    """Yield the embedding table with sparse gradients where its weight is the output head's too.

    PyTorch makes the gradient of a table as large as the vocabulary and adds it to the head's.
    That passes over most of a small model's weights for the some 200 rows that a batch looks up.
    Kept sparse and added to the head's gradient in place, the sum is the same. Yields None
    where the table is not trained, and across processes, where gradients must be dense.
    """
    table, head = network.get_input_embeddings(), network.get_output_embeddings()
    alone = accelerator.distributed_type == DistributedType.NO
    trained = table.weight.requires_grad  # not where adapters are
    if not (alone and trained) or head is None or table.weight is not head.weight:
        yield None
        return
    before, table.sparse = table.sparse, True
    try:
        yield table
    finally:
        table.sparse = before


def _clip(accelerator: Accelerator, parameters: list[torch.nn.Parameter], limit: float) -> None:
    """Scale all gradients so that their norm is at most `limit`.

    On a CPU this is bound by memory, and dot products read it at twice the pace of PyTorch's
    norm. On other devices, and across processes, accelerate does it.
    """
    if accelerator.distributed_type != DistributedType.NO or parameters[0].device.type != "cpu":
        accelerator.clip_grad_norm_(parameters, limit)
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = sum(g.flatten().dot(g.flatten()) for g in gradients).sqrt()
    if norm > limit:
        scale = limit / norm
        for gradient in gradients:
            gradient.mul_(scale)


def _finite(loss: float, step: int, recipe: Recipe) -> float:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {step + 1}: learning rate {recipe.learning_rate:g} is"
            " too large for this model, or its weights are damaged"
        )
    return loss
