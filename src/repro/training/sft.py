"""Supervised fine-tuning on question–answer pairs (§3.3, Appendix A).

One general path: batches padded on the left, and whatever `accelerate launch` says of processes
and devices. Where a network allows it, a batch is packed into one row instead, so that nothing is
spent on padding or on computing a common beginning twice; a LLaMA on a CPU takes it as a tree, as
`repro.inference.cpu.cpu_engine` does. Tests hold one against the other.
`benchmarks/finetuning.py` times it against TRL.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedType, set_seed
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_cosine_schedule_with_warmup,
)

from repro.errors import TrainingError
from repro.inference import packing
from repro.inference.allocator import keep_pages
from repro.inference.cpu.cpu_engine import Lean, plant
from repro.models.devices import inference_dtype
from repro.models.tokens import encode as ids_of
from repro.training.recipe import Recipe

IGNORED = -100  # label of a position without loss, as PyTorch's cross-entropy has it


def prompts(tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[list[int]]:
    """Return BOS (where the family has one) and the ids of Appendix A's user turn, for each."""
    texts = [f"<|question|> {question.strip()} <|answer|>" for question in questions]
    return ids_of(tokenizer, texts)


def encode(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], answers: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """Return the ids of training examples and their labels (Appendix A).

    The loss is on the answer and EOS only; every other label is `IGNORED`. The prompt's ids are
    those the model sees at evaluation, so training and evaluation agree token for token.

    Raises:
        TrainingError: the tokenizer would merge a prompt's end with the answer's start, or
            has no EOS.
    """
    if tokenizer.eos_token_id is None:
        raise TrainingError("this tokenizer has no end-of-text token: set its eos_token")
    texts = [
        f"<|question|> {question.strip()} <|answer|> {answer.strip()} "
        for question, answer in zip(questions, answers, strict=True)
    ]
    made, starts = [], prompts(tokenizer, questions)
    for text, prompt, ids in zip(texts, starts, ids_of(tokenizer, texts), strict=True):
        if ids[: len(prompt)] != prompt:
            raise TrainingError(f"this tokenizer does not separate prompt and answer in {text!r}")
        ids = [*ids, tokenizer.eos_token_id]
        made.append((ids, [IGNORED] * len(prompt) + ids[len(prompt) :]))
    return made


def finetune(
    network: PreTrainedModel | Lean,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    recipe: Recipe,
    progress: Callable[[float], object] | None = None,
    dtype: torch.dtype | None = None,
) -> dict:
    """Fine-tune all parameters of a float32 network in place.

    Args:
        network: float32 master weights; or a LLaMA as `Lean`, in its dtype.
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
    examples = encode(tokenizer, facts["question"], facts["object"])
    start = time.perf_counter()
    if isinstance(network, Lean):
        dtype = network.dtype
    dtype = dtype or inference_dtype(network.device)
    keep_pages()
    losses = _run(network, examples, recipe, progress, dtype)
    return {
        "loss": losses,
        "steps": len(losses),
        "tokens": sum(len(ids) for ids, _ in examples) * recipe.epochs,
        "seconds": time.perf_counter() - start,
    }


def _run(reader, examples, recipe, progress, dtype) -> list[float]:
    network = reader.network if isinstance(reader, Lean) else reader
    own = set(vars(network))
    accelerator, prepared, optimizer, *rest = _prepare(reader, examples, recipe, dtype)
    try:
        with _sparse_lookup(accelerator, network) as table:
            return _train(accelerator, prepared, optimizer, *rest, table, recipe, progress)
    finally:
        # The network is the caller's and is used again, also after an error or an interrupt.
        # accelerate replaces its `forward` and marks it as prepared, which would keep the next
        # run from autocast, and unwrapping leaves both.
        if reader is network:
            accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
            accelerator.free_memory()
        optimizer.state.clear()  # the schedule ties it to itself, so it is not freed at once
        for name in vars(network).keys() - own:
            delattr(network, name)
        network.zero_grad()
        network.eval()


def _prepare(reader, examples, recipe, dtype=torch.float32):
    network = reader.network if isinstance(reader, Lean) else reader
    if not examples:
        raise TrainingError("no facts to fine-tune on: the pool is empty")
    limit = getattr(network.config, "max_position_embeddings", math.inf)
    for ids, labels in examples:
        if all(label == IGNORED for label in labels):
            raise TrainingError("an example has no answer token, so its loss would be undefined")
        if len(ids) > limit:
            raise TrainingError(f"an example of {len(ids)} tokens is too long for this model")
    set_seed(recipe.seed)
    precision = "bf16" if dtype is torch.bfloat16 else "no"
    accelerator = Accelerator(  # `Lean` rounds by itself, whatever autocast the process began with
        mixed_precision=precision if reader is network else None,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    order = torch.Generator().manual_seed(recipe.seed)
    join = _way(reader, max(len(ids) for ids, _ in examples))
    loader = DataLoader(examples, recipe.batch_size, shuffle=True, generator=order, collate_fn=join)
    steps = math.ceil(len(examples) / recipe.batch_size) * recipe.epochs
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, int(recipe.warmup * steps), steps)
    if reader is not network:  # it is alone and on a CPU, and what is added would take a tenth
        return accelerator, reader, optimizer, loader, schedule
    return accelerator, *accelerator.prepare(network, optimizer, loader, schedule)


def _train(accelerator, reader, optimizer, loader, schedule, table, recipe, progress):
    network, losses = reader.network if isinstance(reader, Lean) else reader, []
    parameters = list(network.parameters())
    network.train()
    for _ in range(recipe.epochs):
        for batch in loader:
            loss = _backward(accelerator, reader, batch, table)
            _clip(accelerator, parameters, recipe.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(_finite(loss, len(losses), recipe))
            if progress:
                progress(losses[-1])
    return losses


def _backward(accelerator, network, batch, table) -> float:
    """Add the gradient of the mean loss per answer token; return that loss.

    The mean is over the whole batch, however many processes share it.
    """
    answers = accelerator.reduce((batch["targets"] != IGNORED).sum().float(), "mean")
    packed = "parents" in batch or batch["attention_mask"].dim() == 4  # so it takes rows
    if apart := packed and table is not None:
        rows = table(batch.pop("input_ids"))
        batch["inputs_embeds"] = rows.detach().requires_grad_()
    loss = _loss(network, batch) / answers
    if isinstance(network, Lean):
        loss.backward()
    else:
        accelerator.backward(loss)
    if apart:
        rows.backward(batch["inputs_embeds"].grad)
    return accelerator.reduce(loss.detach(), "mean").item()


def _loss(network, batch) -> torch.Tensor:
    """Return the sum of the losses of a batch's answer tokens."""
    inputs = {name: value for name, value in batch.items() if name != "targets"}
    if isinstance(network, Lean):
        logits = network.read(**inputs)
    else:
        logits = network(**inputs, use_cache=False).logits.flatten(0, 1)
    return torch.nn.functional.cross_entropy(
        logits.float(), batch["targets"], ignore_index=IGNORED, reduction="sum"
    )


# --- batches ----------------------------------------------------------------------------------
# `logits_to_keep` names the positions that predict a token of an answer. No other logits are
# computed: the vocabulary is a small model's widest matrix, and most tokens are the question's.


def collate(examples: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """Pad a batch on the left, so that all answers end in the last column.

    Padding is known by its mask and its label, never by its id: EOS may serve as padding
    without losing its place in the loss.

    Returns:
        dict(input_ids, position_ids, attention_mask: `[examples, longest]`; logits_to_keep:
        `[columns]`; targets: `[examples * columns]`, `IGNORED` where there is no answer).
    """
    width = max(len(ids) for ids, _ in examples)
    gaps = [width - len(ids) for ids, _ in examples]
    rows = [[0] * gap + ids for (ids, _), gap in zip(examples, gaps, strict=True)]
    labels = [[IGNORED] * gap + own for (_, own), gap in zip(examples, gaps, strict=True)]
    wanted = torch.tensor(labels)[:, 1:]
    columns = (wanted != IGNORED).any(0).nonzero().flatten()
    return {
        "input_ids": torch.tensor(rows),
        "position_ids": torch.tensor([[0] * gap + [*range(width - gap)] for gap in gaps]),
        "attention_mask": torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps]),
        "logits_to_keep": columns,
        "targets": wanted[:, columns].flatten(),
    }


def pack(examples: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """Join a batch into one row, as `packing` does: the loss counts a token of it once for
    each example it is in.

    Returns:
        dict(input_ids, position_ids: `[1, tokens]`; attention_mask: bool `[1, 1, tokens,
        tokens]`; logits_to_keep, targets: `[answer tokens]`).
    """
    row, nodes = packing.pack([ids for ids, _ in examples])
    return row | _answers(examples, nodes)


def tree(examples: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """Join a batch as `pack` does, for `repro.inference.cpu.cpu_engine`.

    Returns:
        dict(input_ids, parents: `[nodes]`; logits_to_keep, targets: `[answer tokens]`).
    """
    tokens, parents, nodes = plant([ids for ids, _ in examples])
    row = {"input_ids": torch.from_numpy(tokens), "parents": torch.from_numpy(parents)}
    return row | _answers(examples, nodes)


def _answers(examples, nodes: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the nodes that predict a token of an answer, and these tokens."""
    answers = [
        (nodes[number, place - 1], label)
        for number, (_, labels) in enumerate(examples)
        for place, label in enumerate(labels)
        if label != IGNORED
    ]
    keep, targets = zip(*answers, strict=True)
    return {"logits_to_keep": torch.tensor(keep), "targets": torch.tensor(targets)}


def _way(reader: PreTrainedModel | Lean, longest: int) -> Callable[[list], dict]:
    """Return the way to join examples of at most `longest` tokens that a network allows."""
    if isinstance(reader, Lean):
        return tree
    return pack if packing.fits(reader, longest) else collate


# --- what a step need not pay for ---------------------------------------------------------------


@contextmanager
def _sparse_lookup(accelerator, network) -> Iterator[torch.nn.Embedding | None]:
    """Yield the embedding table with sparse gradients where its weight is the output head's too.

    Its gradient as a table is one row per token of the batch, but PyTorch makes it as large as
    the vocabulary and adds it to the head's: passes over most of a small model's weights for
    some 200 rows. Kept sparse and added to the head's in place, the sum is the same. Across
    processes gradients must be dense: None.
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


def _clip(accelerator, parameters: list[torch.nn.Parameter], limit: float) -> None:
    """Scale all gradients so that their norm is at most `limit`.

    On a CPU this is bound by memory, and dot products read it at twice the pace of PyTorch's
    norm. Elsewhere, and across processes, it is accelerate's business.
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
