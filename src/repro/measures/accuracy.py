"""Closed-book question answering by topic and mastery level (§3.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from repro import paper
from repro.errors import StoreError
from repro.training.prompts import encode_prompts

if TYPE_CHECKING:  # what reads records only, as most do, need not wait for PyTorch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from repro.inference.cpu.cpu_engine import CpuEngine
    from repro.inference.decoding import Completion, Prompt

# What `cells_of` returns: the table of topics and levels, and the row of each fact in it.
Cells = tuple[pd.DataFrame, np.ndarray]
MAX_NEW_TOKENS = 16  # of an answer


def answer(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame | Sequence[Prompt],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    rows: int | None = None,
    work: Counter | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[Completion]:
    """Answer every question greedily, with the prompt of Appendix A.

    Args:
        network: a fine-tuned model, in evaluation mode.
        tokenizer: its tokenizer.
        facts: DataFrame[question, object, …], or the prompts that `prompts` makes of it.
        max_new_tokens: the longest answer, in tokens.
        rows: questions answered at a time; by default what fits into memory.
        work: counts what was computed, as in `complete`.
        progress: called with the number of questions of each finished batch.

    Returns:
        One completion per fact; `hit` says whether it contains a name of the object.
    """
    from repro.inference.decoding import Decoding, complete

    questions = prompts(tokenizer, facts) if isinstance(facts, pd.DataFrame) else facts
    greedy = Decoding(max_new_tokens, rows=rows)
    completions = complete(network, tokenizer, questions, greedy, work, progress)
    return [completion for [completion] in completions]


def prompts(tokenizer: PreTrainedTokenizerBase, facts: pd.DataFrame) -> list[Prompt]:
    """Return the questions of facts as prompts (Appendix A), which several networks can be asked.

    Args:
        tokenizer: the tokenizer of the networks.
        facts: DataFrame[question, object, …].
    """
    from repro.inference.decoding import Prompt

    encoded = encode_prompts(tokenizer, facts["question"])
    return [
        Prompt(ids, paper.names(name)) for ids, name in zip(encoded, facts["object"], strict=True)
    ]


def count(facts: pd.DataFrame, hits: Sequence[bool], cells: Cells | None = None) -> pd.DataFrame:
    """Count answers by topic and level: DataFrame[topic, test_level, correct, total].

    A topic and level without facts has no row: it is absent, not 0.

    Args:
        facts: DataFrame[topic, level, …], the facts asked.
        hits: whether each fact was answered correctly.
        cells: what `cells_of` returned for these facts, if it is already known.
    """
    cells = cells or cells_of(facts)
    counts = cells[0].copy()
    counts.insert(2, "correct", correct(hits, cells))
    return counts


def correct(hits: Sequence[bool] | np.ndarray, cells: Cells) -> np.ndarray:
    """Return the number of correct answers in each row of the table of `cells_of`."""
    table, row_of_fact = cells
    return np.bincount(row_of_fact, np.asarray(hits, float), len(table)).astype(int)


def cells_of(facts: pd.DataFrame) -> Cells:
    """Return DataFrame[topic, test_level, total], and the row of each fact, int[facts]."""
    grouped = facts.groupby(["topic", "level"], sort=True)
    table = grouped.size().rename("total").reset_index().rename(columns={"level": "test_level"})
    return table, grouped.ngroup().to_numpy()


def pack(hits: Sequence[bool]) -> str:
    """Return which questions were answered as hexadecimal digits, four questions to a digit.

    `unpack` is the inverse.
    """
    return np.packbits(np.asarray(hits, bool)).tobytes().hex()


def unpack(digits: str, number: int) -> np.ndarray:
    """Return which of `number` questions were answered, bool[number], from the digits of `pack`.

    Raises:
        StoreError: the digits stand for another number of questions.
    """
    try:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8))
    except (TypeError, ValueError):
        bits = np.ones(0, np.uint8)
    if len(bits) != -(-number // 8) * 8 or bits[number:].any():
        raise StoreError(
            f"a record holds other than {number} answers: `repro check MODEL` says which"
        )
    return bits[:number].astype(bool)
