"""Batches of training examples as tensors: padded, packed into one row, or a prefix tree.

A packed row has no padding, and a prefix that several examples share is computed once.
`batch_function` chooses the form that a network allows; tests compare the forms.

In every form `logits_to_keep` are the positions that predict a token of an answer. No other logits
are computed, because the output head is the widest matrix of a small model, and most tokens belong
to the question.
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
        TrainingError: the network mixes the texts of a batch, as RWKV, whose state includes
            padding.
    """
    if isinstance(network, CpuEngine):
        return prefix_tree_batch
    # `packing.fits` computes parts of a network, and a sharded network can only compute as a whole.
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
    """Return the part of a batch that one of several processes computes, with `answers`.

    `answers` is the number of answer tokens in the whole batch, by which every process divides its
    loss. If there are fewer examples than processes, the last processes take the first example
    without labels. It adds nothing to the gradient, and all processes take the same number of
    steps.

    Args:
        examples: the whole batch.
        join: one of the functions below.
        rank: number of this process, from 0.
        number: number of processes.
    """
    answers = sum(label != IGNORED for _, labels in examples for label in labels)
    part = examples[rank::number] or [(examples[0][0], [IGNORED] * len(examples[0][0]))]
    return join(part) | {"answers": torch.tensor(float(answers))}


def padded_batch(examples: Sequence[Example]) -> Batch:
    """Return a batch padded on the left, so that all answers end in the last column.

    Padding is marked by the attention mask and the label, never by its id. So EOS may be the
    padding token and still count in the loss.

    Returns:
        A dict with `input_ids`, `position_ids` and `attention_mask`, (examples, longest);
        `logits_to_keep`, (columns,); `targets`, (examples * columns,), `IGNORED` at positions
        without a token of an answer.
    """
    width = max(len(ids) for ids, _ in examples)
    gaps = [width - len(ids) for ids, _ in examples]
    rows = [[0] * gap + ids for (ids, _), gap in zip(examples, gaps, strict=True)]
    labels = [[IGNORED] * gap + row for (_, row), gap in zip(examples, gaps, strict=True)]
    next_labels = torch.tensor(labels)[:, 1:]
    columns = (next_labels != IGNORED).any(0).nonzero().flatten()
    columns = columns if len(columns) else torch.tensor([0])  # no label at all
    return {
        "input_ids": torch.tensor(rows),
        "position_ids": torch.tensor([[0] * gap + [*range(width - gap)] for gap in gaps]),
        "attention_mask": torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps]),
        "logits_to_keep": columns,
        "targets": next_labels[:, columns].flatten(),
    }


def packed_batch(examples: Sequence[Example]) -> Batch:
    """Return a batch as one row without padding, made by `packing.pack`.

    A token that several examples share counts in the loss once for each of them.

    Returns:
        A dict with `input_ids` and `position_ids`, (1, tokens); `attention_mask`, bool (1, 1,
        tokens, tokens); `logits_to_keep` and `targets`, (answer tokens,).
    """
    row, nodes = packing.pack([ids for ids, _ in examples])
    return row | _answer_positions(examples, nodes)


def prefix_tree_batch(examples: Sequence[Example]) -> Batch:
    """Return a batch as the prefix tree that `repro.inference.cpu.cpu_engine` reads.

    Returns:
        A dict with `input_ids` and `parents`, (nodes,); `logits_to_keep` and `targets`, (answer
        tokens,).
    """
    tokens, parents, nodes = merge_prefixes([ids for ids, _ in examples])
    tree = {"input_ids": torch.from_numpy(tokens), "parents": torch.from_numpy(parents)}
    return tree | _answer_positions(examples, nodes)


def _answer_positions(examples: Sequence[Example], nodes: np.ndarray) -> Batch:
    """Return the nodes that predict a token of an answer, and these tokens.

    `nodes` is (examples, longest), the node of each token of each example.
    """
    answers = [
        (nodes[number, place - 1], label)
        for number, (_, labels) in enumerate(examples)
        for place, label in enumerate(labels)
        if label != IGNORED
    ]
    keep, targets = zip(*answers or [(0, IGNORED)], strict=True)  # or no label at all
    return {"logits_to_keep": torch.tensor(keep), "targets": torch.tensor(targets)}
