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

Cells = tuple[pd.DataFrame, np.ndarray]
MAX_NEW_TOKENS = 16


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
        facts: DataFrame[question, object, …], or what `prompts` makes of it.
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
    """Return the questions as prompts, to ask several networks the same."""
    from repro.inference.decoding import Prompt

    encoded = encode_prompts(tokenizer, facts["question"])
    return [Prompt(i, paper.names(o)) for i, o in zip(encoded, facts["object"], strict=True)]


def count(facts: pd.DataFrame, hits: Sequence[bool], cells: Cells | None = None) -> pd.DataFrame:
    """Count answers by topic and level: DataFrame[topic, test_level, correct, total].

    A level without facts has no row: it is absent, not 0.

    Args:
        facts: DataFrame[topic, level, …], the facts asked.
        hits: whether each was answered.
        cells: those of the facts, where they are asked many times.
    """
    cells = cells or cells_of(facts)
    made = cells[0].copy()
    made.insert(2, "correct", correct(hits, cells))
    return made


def correct(hits: Sequence[bool] | np.ndarray, cells: Cells) -> np.ndarray:
    """Return the number of right answers in each row of the table of `cells_of`."""
    table, place = cells
    return np.bincount(place, np.asarray(hits, float), len(table)).astype(int)


def cells_of(facts: pd.DataFrame) -> Cells:
    """Return DataFrame[topic, test_level, total], and the row of each fact, int[facts]."""
    grouped = facts.groupby(["topic", "level"], sort=True)
    table = grouped.size().rename("total").reset_index().rename(columns={"level": "test_level"})
    return table, grouped.ngroup().to_numpy()


def pack(hits: Sequence[bool]) -> str:
    """Return answers as hexadecimal digits, four questions to a digit: see `unpack`."""
    return np.packbits(np.asarray(hits, bool)).tobytes().hex()


def unpack(digits: str, number: int) -> np.ndarray:
    """Return the `number` answers that `pack` was given: bool[number].

    Raises:
        StoreError: the digits are not those of so many answers.
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
