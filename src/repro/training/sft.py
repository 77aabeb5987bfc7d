"""Supervised fine-tuning on question–answer pairs (§3.3, Appendix A).

The general path has padded batches, and the processes and devices that `accelerate launch` gives.
If a network allows it, a batch is packed into one row instead, or becomes a prefix tree for
`repro.inference.cpu.cpu_engine`: see `repro.training.batches`. `benchmarks/finetuning.py` compares
the time with that of TRL.

Of several processes each takes a part of every batch. The losses are those of one process within
the rounding of sums, whatever their number. Each process holds the whole network, or a part of it
(`training.sharding`). The recipe determines everything that changes numbers; settings of gradient
accumulation, precision or compilation in the environment or in accelerate's configuration are
ignored.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, reduce, set_seed
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from repro.errors import ConfigError, TrainingError
from repro.inference.allocator import keep_pages
from repro.inference.cpu.cpu_engine import CpuEngine
from repro.models import launch
from repro.models.devices import inference_dtype, processes
from repro.training.batches import Batch, batch_function, batch_of_process
from repro.training.prompts import IGNORED, Example, encode_examples
from repro.training.recipe import Recipe
from repro.training.resumption import Resumption
from repro.training.sharding import clip, is_sharded, reshard


def finetune(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    recipe: Recipe,
    progress: Callable[[float], object] | None = None,
    dtype: torch.dtype | None = None,
    resumption: Resumption | None = None,
) -> dict:
    """Fine-tune all parameters of a float32 network in place.

    Args:
        network: a network with float32 weights; or one as `CpuEngine`, which computes in its own
            dtype; or one divided by `sharding.sharded_network`, which computes in the dtype given
            there.
        tokenizer: its tokenizer.
        facts: DataFrame[question, object, …].
        recipe: learning rate, batch size and the rest.
        progress: called with the loss after each step.
        dtype: of the matrix products: float32, or bfloat16 (autocast); by default
            `inference_dtype`, the faster of the two.
        resumption: the checkpoints of a divided fine-tuning, from which it resumes.

    Returns:
        A dict with `loss`, one number per step, and the numbers `steps`, `tokens` and `seconds`.

    Raises:
        ConfigError: accelerate is configured for FSDP, and the network is not divided.
        TrainingError: there are no facts, an example has no answer token, a loss is not finite, or
            a network with dropout is trained in several processes.
    """
    examples = encode_examples(tokenizer, facts["question"], facts["object"])
    start = time.perf_counter()
    if isinstance(network, CpuEngine):
        dtype = network.dtype
    if not is_sharded(network):
        dtype = dtype or inference_dtype(network.device)
    keep_pages()
    losses = _train(network, examples, recipe, progress, dtype, resumption)
    return {
        "loss": losses,
        "steps": len(losses),
        "tokens": sum(len(ids) for ids, _ in examples) * recipe.epochs,
        "seconds": time.perf_counter() - start,
    }


@dataclass
class Training:
    """The objects that the steps of one fine-tuning share.

    Attributes:
        accelerator: of accelerate; None for a `CpuEngine`, where wrapping would take a tenth of the
            time, and for a divided network, which is wrapped already.
        processes: how many processes share each batch.
        network: the network that is trained.
        model: computes the logits: the network as accelerate wraps it, a `CpuEngine`, or a divided
            network.
        optimizer, loader, schedule: of the optimisation, the batches, and the learning rate.
    """

    accelerator: Accelerator | None
    processes: int
    network: PreTrainedModel
    model: torch.nn.Module | CpuEngine
    optimizer: torch.optim.Optimizer
    loader: DataLoader
    schedule: LRScheduler


def _train(model, examples, recipe, progress, dtype, resumption) -> list[float]:
    """Train and return the loss of each step; the network is an ordinary network afterwards."""
    network = _network(model)
    attributes = set(vars(network))
    training = _prepare(model, examples, recipe, dtype)
    try:
        with _sparse_lookup(network, training.processes) as table:
            return _steps(training, table, recipe, progress, resumption)
    finally:
        # The caller uses the network again, also after an error or an interrupt. accelerate
        # replaces its `forward` and marks it as prepared, and unwrapping leaves both. The mark
        # would keep the next run from autocast.
        if training.accelerator:
            training.accelerator.unwrap_model(training.model, keep_fp32_wrapper=False)
            training.accelerator.free_memory()
        training.optimizer.state.clear()  # the schedule refers to it, so it would not be freed
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
    """Return the objects that training needs, and set the seed.

    Raises:
        TrainingError: there are no examples, or this network cannot learn one of them.
    """
    network = _network(model)
    _check_examples(examples, getattr(network.config, "max_position_embeddings", math.inf))
    set_seed(recipe.seed)
    is_wrapped = isinstance(model, CpuEngine) or is_sharded(model)
    accelerator = None if is_wrapped else _accelerator(dtype)
    number = 1 if isinstance(model, CpuEngine) else processes().num_processes
    if number > 1 or is_sharded(model):
        _check_dropout(network)
    loader = _loader(model, examples, recipe, number)
    if is_sharded(model):
        reshard(model)
    steps = math.ceil(len(examples) / recipe.batch_size) * recipe.epochs
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, int(recipe.warmup * steps), steps)
    model = accelerator.prepare_model(network) if accelerator else model
    return Training(accelerator, number, network, model, optimizer, loader, schedule)


def _loader(
    model: PreTrainedModel | CpuEngine, examples: Sequence[Example], recipe: Recipe, number: int
) -> DataLoader:
    """Return the loader of batches; each of `number` processes gets its part of every batch."""
    rank = processes().process_index if number > 1 else 0
    join = batch_function(model, max(len(ids) for ids, _ in examples))
    part = partial(batch_of_process, join=join, rank=rank, number=number)
    order = torch.Generator().manual_seed(recipe.seed)
    return DataLoader(examples, recipe.batch_size, shuffle=True, generator=order, collate_fn=part)


def _accelerator(dtype: torch.dtype) -> Accelerator:
    """Return an accelerator that computes in `dtype` and ignores settings of the environment."""
    processes()  # refuses a launch with settings that would be ignored
    if launch.sharding():
        raise ConfigError(
            "accelerate is told to use FSDP, but this is the fine-tuning of a whole network: launch"
            " with --multi_gpu alone"
        )
    return Accelerator(
        mixed_precision="bf16" if dtype is torch.bfloat16 else "no",
        # As a plain number, a variable of the environment would replace it.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
    )


def _check_dropout(network: PreTrainedModel) -> None:
    """Raise TrainingError if a network that several processes train has dropout."""
    if _has_dropout(network):
        raise TrainingError(
            "this model has dropout, whose random numbers depend on the number of processes:"
            " fine-tune it in one process"
        )


def _has_dropout(network: PreTrainedModel) -> bool:
    """Tell whether a network drops states, attention weights or layers at random in training."""
    return any(
        value > 0
        for module in network.modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float)
        and ("drop" in name or (name == "p" and isinstance(module, torch.nn.Dropout)))
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


def _steps(training: Training, table, recipe: Recipe, progress, resumption) -> list[float]:
    """Take all steps of AdamW and return the loss of each."""
    network, optimizer, schedule = training.network, training.optimizer, training.schedule
    earlier_losses = resumption.load(network, optimizer, schedule) if resumption else []
    losses, trained = list(earlier_losses), list(network.parameters())
    network.train()
    for number, batch in enumerate(_batches(training, recipe.epochs)):
        if number < len(earlier_losses):  # a step that was taken before an interruption
            continue
        losses.append(_finite(_backward(training, batch, table), number, recipe))
        _clip(trained, recipe.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if progress:
            progress(losses[-1])
        if resumption:
            resumption.keep(network, optimizer, schedule, losses)
    return losses


def _batches(training: Training, epochs: int) -> Iterator[Batch]:
    """Yield this process's part of each batch, on the device that computes."""
    network = training.network
    device = processes().device if is_sharded(network) else network.device
    for _ in range(epochs):
        for batch in training.loader:
            yield {name: value.to(device) for name, value in batch.items()}


def _backward(training: Training, batch: Batch, table) -> float:
    """Add the gradient of the mean loss per answer token; return that loss.

    The mean is over the whole batch, however many processes share it. Gradients become their
    mean over the processes, so each process divides its sum by the mean number of answers.
    """
    answers = batch.pop("answers") / training.processes
    packed = "parents" in batch or batch["attention_mask"].dim() == 4
    # A packed row can be given as embeddings, whose gradient goes to the table by itself.
    looked_up = packed and table is not None
    if looked_up:
        rows = table(batch.pop("input_ids"))
        batch["inputs_embeds"] = rows.detach().requires_grad_()
    loss = _loss(training.model, batch) / answers
    loss.backward()
    if looked_up:
        rows.backward(batch["inputs_embeds"].grad)
    loss = loss.detach()
    return (reduce(loss, "mean") if training.processes > 1 else loss).item()


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
    network: PreTrainedModel, processes: int = 1
) -> Iterator[torch.nn.Embedding | None]:
    """Yield the embedding table, with sparse gradients, if it shares its weight with the head.

    PyTorch makes the gradient of a table as large as the vocabulary and adds it to that of the
    head. In a small model this passes over most weights, although a batch looks up only about 200
    rows. A sparse gradient that is added to the head's in place gives the same sum. Yields None if
    the table has a weight of its own, is not trained or is divided, and with several processes,
    whose gradients must be dense.
    """
    table, head = network.get_input_embeddings(), network.get_output_embeddings()
    is_tied = head is not None and table.weight is head.weight
    is_trained = table.weight.requires_grad  # False if adapters are trained
    if processes > 1 or is_sharded(network) or not is_trained or not is_tied:
        yield None
        return
    before, table.sparse = table.sparse, True
    try:
        yield table
    finally:
        table.sparse = before


def _clip(parameters: list[torch.nn.Parameter], limit: float) -> None:
    """Scale all gradients so that their norm is at most `limit`.

    On a CPU the time goes into reading memory, and dot products read it twice as fast as PyTorch's
    norm. Every process holds all gradients, or its rows of the gradients of a divided network.
    """
    if isinstance(parameters[0], DTensor):
        clip([p.grad.to_local() for p in parameters if p.grad is not None], limit)
        return
    if parameters[0].device.type != "cpu":
        torch.nn.utils.clip_grad_norm_(parameters, limit)
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
