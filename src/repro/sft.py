"""Supervised fine-tuning on question–answer pairs (§3.3, Appendix A)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_cosine_schedule_with_warmup,
)

from repro.errors import ConfigError, TrainingError
from repro.facts import sample
from repro.models import bos_ids, inference_dtype

IGNORED = -100  # label of a position without loss, as PyTorch's cross-entropy has it


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


def prompt_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """Return BOS (where the family has one) and the ids of Appendix A's user turn."""
    text = f"<|question|> {question.strip()} <|answer|>"
    return bos_ids(tokenizer) + tokenizer(text, add_special_tokens=False).input_ids


def encode(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> tuple[list, list]:
    """Return the ids of one training example and their labels (Appendix A).

    The loss is on the answer and EOS only; every other label is `IGNORED`. The prompt's ids are
    those the model sees at evaluation, so training and evaluation agree token for token.

    Raises:
        TrainingError: the tokenizer would merge the prompt's end with the answer's start, or
            has no EOS.
    """
    if tokenizer.eos_token_id is None:
        raise TrainingError("this tokenizer has no end-of-text token: set its eos_token")
    prompt = prompt_ids(tokenizer, question)
    text = f"<|question|> {question.strip()} <|answer|> {answer.strip()} "
    ids = bos_ids(tokenizer) + tokenizer(text, add_special_tokens=False).input_ids
    if ids[: len(prompt)] != prompt:
        raise TrainingError(f"this tokenizer does not separate prompt and answer in {text!r}")
    ids = [*ids, tokenizer.eos_token_id]
    return ids, [IGNORED] * len(prompt) + ids[len(prompt) :]


def choose(pool: pd.DataFrame, size: int | None, number: int, seed: int) -> pd.DataFrame:
    """Draw data sample `number` of `size` facts, balanced over topics (None: the whole pool).

    Raises:
        TrainingError: the pool is empty or too small.
    """
    if pool.empty:
        raise TrainingError("no facts to fine-tune on: the level's pool is empty for this model")
    try:
        # One seed for each data sample; a larger sample holds the smaller one of its number.
        return sample(pool, size, seed * 1000 + number)
    except ConfigError as error:
        raise TrainingError(f"cannot draw {size} facts: {error}") from error


def finetune(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    recipe: Recipe,
    progress: Callable[[float], object] | None = None,
) -> dict:
    """Fine-tune all parameters of a float32 network in place.

    Args:
        network: float32 master weights; the forward pass runs in bfloat16 where that is fast.
        tokenizer: its tokenizer.
        facts: DataFrame[question, object, …].
        recipe: learning rate, batch size and the rest.
        progress: called with the loss after each step.

    Returns:
        dict(loss=[one number per step], steps, tokens, seconds).

    Raises:
        TrainingError: no facts, an example without an answer token, or a loss that is not finite.
    """
    examples = [encode(tokenizer, f.question, f.object) for f in facts.itertuples()]
    start, prepared = time.perf_counter(), _prepare(network, examples, recipe)
    try:
        losses = _train(*prepared, recipe, progress)
    finally:
        # The network is the caller's and is used again, also after an error or an interrupt.
        # accelerate wraps its `forward` and on unwrapping leaves it one without transformers'
        # decorators: without either, the class's own is back.
        prepared[0].unwrap_model(prepared[1], keep_fp32_wrapper=False)
        prepared[0].free_memory()
        vars(network).pop("forward", None)
        network.eval()
    return {
        "loss": losses,
        "steps": len(losses),
        "tokens": sum(len(ids) for ids, _ in examples) * recipe.epochs,
        "seconds": time.perf_counter() - start,
    }


def _train(accelerator, network, optimizer, loader, schedule, recipe, progress) -> list[float]:
    losses = []
    network.train()
    for _ in range(recipe.epochs):
        for batch in loader:
            loss = _loss(network, batch)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(network.parameters(), recipe.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(_finite(loss.item(), len(losses), recipe))
            if progress:
                progress(losses[-1])
    return losses


def _prepare(network, examples, recipe):
    if not examples:
        raise TrainingError("no facts to fine-tune on: the pool is empty")
    for ids, labels in examples:
        if all(label == IGNORED for label in labels):
            raise TrainingError("an example has no answer token, so its loss would be undefined")
        if len(ids) > network.config.max_position_embeddings:
            raise TrainingError(f"an example of {len(ids)} tokens is too long for this model")
    set_seed(recipe.seed)
    bf16 = inference_dtype(network.device) is torch.bfloat16
    accelerator = Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    order = torch.Generator().manual_seed(recipe.seed)
    loader = DataLoader(
        examples, recipe.batch_size, shuffle=True, generator=order, collate_fn=collate
    )
    steps = math.ceil(len(examples) / recipe.batch_size) * recipe.epochs
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, int(recipe.warmup * steps), steps)
    return accelerator, *accelerator.prepare(network, optimizer, loader, schedule)


def collate(examples: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """Pad a batch on the left, so that all answers end in the last column.

    Padding is known by its mask and its label, never by its id: EOS may serve as padding
    without losing its place in the loss.
    """
    width = max(len(ids) for ids, _ in examples)
    ids = [[0] * (width - len(i)) + i for i, _ in examples]
    labels = [[IGNORED] * (width - len(label)) + label for _, label in examples]
    mask = [[0] * (width - len(i)) + [1] * len(i) for i, _ in examples]
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    return {name: torch.tensor(rows) for name, rows in batch.items()}


def _loss(network, batch) -> torch.Tensor:
    # Answers end in the last column, so the logits of the last few columns are all that count.
    labels = batch["labels"]
    first = int((labels != IGNORED).any(0).nonzero()[0])
    keep = labels.shape[1] - first + 1
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    logits = network(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        position_ids=positions,
        use_cache=False,
        logits_to_keep=keep,
    ).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, first:].flatten(), ignore_index=IGNORED
    )


def _finite(loss: float, step: int, recipe: Recipe) -> float:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {step + 1}: learning rate {recipe.learning_rate:g} is"
            " too large for this model, or its weights are damaged"
        )
    return loss
