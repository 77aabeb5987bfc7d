"""Supervised fine-tuning on question–answer pairs (§3.3, Appendix A).

One general path: padded batches, and the processes and devices that `accelerate launch` gives.
Where a network allows it, a batch is packed into one row instead, or becomes a prefix tree for
`repro.inference.cpu.cpu_engine`: see `repro.training.batches`. `benchmarks/finetuning.py` times
it against TRL.

Several processes take each a part of every batch, and any number of them gives the losses of one
within the rounding of sums. Each holds the whole network, or a part of it (`training.sharding`).
The recipe decides all that changes numbers; what the environment or accelerate's configuration says
of gradient accumulation, precision or compilation does not count.
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
        network: float32 master weights; or a LLaMA as `CpuEngine`, which computes in its own dtype;
            or one that `sharding.sharded_network` has divided, which computes as it was told there.
        tokenizer: its tokenizer.
        facts: DataFrame[question, object, …].
        recipe: learning rate, batch size and the rest.
        progress: called with the loss after each step.
        dtype: of the matrix products: float32, or bfloat16 (autocast); by default
            `inference_dtype`, the faster of the two.
        resumption: where a sharded fine-tuning keeps checkpoints and goes on after it was killed.

    Returns:
        dict(loss=[one number per step], steps, tokens, seconds).

    Raises:
        ConfigError: accelerate is told to use FSDP, and the network is not sharded.
        TrainingError: no facts, an example without an answer token, a loss that is not finite, or
            several processes and a network with dropout.
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
    """What the steps of one fine-tuning share.

    `model` computes: the network as accelerate wraps it, or a `CpuEngine`, which is not wrapped
    because it runs alone on a CPU, where the wrapping would take a tenth of the time, or a sharded
    network, which is wrapped already; then there is no accelerator. `processes` share each batch.
    """

    accelerator: Accelerator | None
    processes: int
    network: PreTrainedModel
    model: torch.nn.Module | CpuEngine
    optimizer: torch.optim.Optimizer
    loader: DataLoader
    schedule: LRScheduler


def _train(model, examples, recipe, progress, dtype, resumption) -> list[float]:
    """Train and return the loss of each step; leave the network as an ordinary network."""
    network = _network(model)
    attributes = set(vars(network))
    training = _prepare(model, examples, recipe, dtype)
    try:
        with _sparse_lookup(network, training.processes) as table:
            return _steps(training, table, recipe, progress, resumption)
    finally:
        # The network is the caller's and is used again, also after an error or an interrupt.
        # accelerate replaces its `forward` and marks it as prepared, which would keep the next
        # run from autocast, and unwrapping leaves both.
        if training.accelerator:
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
    wrapped = isinstance(model, CpuEngine) or is_sharded(model)
    accelerator = None if wrapped else _accelerator(dtype)
    alone = isinstance(model, CpuEngine)
    rank, number = (0, 1) if alone else (processes().process_index, processes().num_processes)
    if (number > 1 or is_sharded(model)) and _has_dropout(network):
        raise TrainingError(
            "this model has dropout, whose random numbers depend on the number of processes:"
            " fine-tune it in one process"
        )
    order = torch.Generator().manual_seed(recipe.seed)
    join = batch_function(model, max(len(ids) for ids, _ in examples))
    if is_sharded(model):
        reshard(model)
    part = partial(batch_of_process, join=join, rank=rank, number=number)
    loader = DataLoader(examples, recipe.batch_size, shuffle=True, generator=order, collate_fn=part)
    steps = math.ceil(len(examples) / recipe.batch_size) * recipe.epochs
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, int(recipe.warmup * steps), steps)
    model = accelerator.prepare_model(network) if accelerator else model
    return Training(accelerator, number, network, model, optimizer, loader, schedule)


def _accelerator(dtype: torch.dtype) -> Accelerator:
    """Return an accelerator that computes in `dtype`, whatever the environment says."""
    processes()  # refuses a launch that would not do what it was told
    if launch.sharding():
        raise ConfigError(
            "accelerate is told to use FSDP, but this is the fine-tuning of a whole network: launch"
            " with --multi_gpu alone"
        )
    return Accelerator(
        mixed_precision="bf16" if dtype is torch.bfloat16 else "no",
        # The number alone would give way to a variable of the environment.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_backend="no",
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
    done = resumption.load(network, optimizer, schedule) if resumption else []
    losses, trained = list(done), list(network.parameters())
    network.train()
    for number, batch in enumerate(_batches(training, recipe.epochs)):
        if number < len(done):  # a step that was taken before an interruption
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
    """Yield the embedding table with sparse gradients where its weight is the output head's too.

    PyTorch makes the gradient of a table as large as the vocabulary and adds it to the head's.
    That passes over most of a small model's weights for the some 200 rows that a batch looks up.
    Kept sparse and added to the head's gradient in place, the sum is the same. Yields None
    where the table is not trained, where it is sharded, and across processes, where gradients must
    be dense.
    """
    table, head = network.get_input_embeddings(), network.get_output_embeddings()
    trained = table.weight.requires_grad  # not where adapters are
    if (
        processes > 1
        or is_sharded(network)
        or not trained
        or head is None
        or table.weight is not head.weight
    ):
        yield None
        return
    before, table.sparse = table.sparse, True
    try:
        yield table
    finally:
        table.sparse = before


def _clip(parameters: list[torch.nn.Parameter], limit: float) -> None:
    """Scale all gradients so that their norm is at most `limit`.

    On a CPU this is bound by memory, and dot products read it at twice the pace of PyTorch's
    norm. Every process holds the gradients of all, or its rows of them where they are sharded.
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
