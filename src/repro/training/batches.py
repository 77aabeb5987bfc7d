"""Batches of training examples as tensors: padded, packed into one row, or a prefix tree.

A packed row spends nothing on padding and computes a common prefix of several examples once.
`batch_function` says which form a network allows; tests hold one form against the other.

In every form `logits_to_keep` names the positions that predict a token of an answer. No other
logits are computed: the output head is a small model's widest matrix, and most tokens belong to
the question.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from repro.errors import TrainingError
from repro.inference import packing, transformers_engine
from repro.inference.cpu.cpu_engine import CpuEngine
from repro.inference.cpu.prefix_tree import merge_prefixes
from repro.training.prompts import IGNORED, Example
from repro.training.sharding import is_sharded

Batch = dict[str, torch.Tensor]


def batch_function(
    network: PreTrainedModel | CpuEngine, longest: int
) -> Callable[[Sequence[Example]], Batch]:
    """Return the function that joins examples of at most `longest` tokens for a network.

    Raises:
        TrainingError: a network such as RWKV, whose state runs on over padding.
    """
    if isinstance(network, CpuEngine):
        return prefix_tree_batch
    # Whether packing fits is tried on parts of a network, and a sharded one computes as a whole.
    if not is_sharded(network) and packing.fits(network, longest):
        return packed_batch
    if transformers_engine.pads(network, longest):
        return padded_batch
    raise TrainingError(
        f"{type(network).__name__} does not keep texts of a batch apart, neither packed nor padded,"
        " so it cannot be fine-tuned here"
    )


def batch_of_process(
    examples: Sequence[Example],
    join: Callable[[Sequence[Example]], Batch],
    rank: int = 0,
    number: int = 1,
) -> Batch:
    """Return the part of a batch that one of several processes computes, and `answers`.

    `answers` is the number of answer tokens in the whole batch, by which every process divides. A
    process for which no example is left takes the first one without labels: it adds nothing, and
    all processes take equally many steps.
    """
    answers = sum(label != IGNORED for _, labels in examples for label in labels)
    part = examples[rank::number] or [(examples[0][0], [IGNORED] * len(examples[0][0]))]
    return join(part) | {"answers": torch.tensor(float(answers))}


def padded_batch(examples: Sequence[Example]) -> Batch:
    """Return a batch padded on the left, so that all answers end in the last column.

    Padding is marked by the attention mask and the label, never by its id: EOS may be the
    padding token without losing its place in the loss.

    Returns:
        dict(input_ids, position_ids, attention_mask: `[examples, longest]`; logits_to_keep:
        `[columns]`; targets: `[examples * columns]`, `IGNORED` where there is no answer).
    """
    width = max(len(ids) for ids, _ in examples)
    gaps = [width - len(ids) for ids, _ in examples]
    rows = [[0] * gap + ids for (ids, _), gap in zip(examples, gaps, strict=True)]
    labels = [[IGNORED] * gap + row for (_, row), gap in zip(examples, gaps, strict=True)]
    next_labels = torch.tensor(labels)[:, 1:]
    columns = (next_labels != IGNORED).any(0).nonzero().flatten()
    columns = columns if len(columns) else torch.tensor([0])  # a batch that is masked in full
    return {
        "input_ids": torch.tensor(rows),
        "position_ids": torch.tensor([[0] * gap + [*range(width - gap)] for gap in gaps]),
        "attention_mask": torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps]),
        "logits_to_keep": columns,
        "targets": next_labels[:, columns].flatten(),
    }


def packed_batch(examples: Sequence[Example]) -> Batch:
    """Return a batch as one row without padding, made by `packing.pack`.

    The loss counts a token that several examples share once for each of them.

    Returns:
        dict(input_ids, position_ids: `[1, tokens]`; attention_mask: bool `[1, 1, tokens,
        tokens]`; logits_to_keep, targets: `[answer tokens]`).
    """
    row, nodes = packing.pack([ids for ids, _ in examples])
    return row | _answer_positions(examples, nodes)


def prefix_tree_batch(examples: Sequence[Example]) -> Batch:
    """Return a batch as the prefix tree that `repro.inference.cpu.cpu_engine` reads.

    Returns:
        dict(input_ids, parents: `[nodes]`; logits_to_keep, targets: `[answer tokens]`).
    """
    tokens, parents, nodes = merge_prefixes([ids for ids, _ in examples])
    tree = {"input_ids": torch.from_numpy(tokens), "parents": torch.from_numpy(parents)}
    return tree | _answer_positions(examples, nodes)


def _answer_positions(examples: Sequence[Example], nodes: np.ndarray) -> Batch:
    """Return the nodes that predict a token of an answer, and these tokens."""
    answers = [
        (nodes[number, place - 1], label)
        for number, (_, labels) in enumerate(examples)
        for place, label in enumerate(labels)
        if label != IGNORED
    ]
    keep, targets = zip(*answers or [(0, IGNORED)], strict=True)  # or it is masked in full
    return {"logits_to_keep": torch.tensor(keep), "targets": torch.tensor(targets)}
