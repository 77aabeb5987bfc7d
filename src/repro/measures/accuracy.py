"""Closed-book question answering by topic and mastery level (§3.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from repro import paper

if TYPE_CHECKING:  # what reads records only, as most do, need not wait for PyTorch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from repro.decoding import Completion, Prompt
    from repro.lean import Lean

Cells = tuple[pd.DataFrame, np.ndarray]
MAX_NEW_TOKENS = 16
Z95 = 1.959963984540054


def answer(
    network: PreTrainedModel | Lean,
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
    from repro.decoding import complete

    asked = prompts(tokenizer, facts) if isinstance(facts, pd.DataFrame) else facts
    options = {"rows": rows, "work": work, "progress": progress}
    done = complete(network, tokenizer, asked, max_new_tokens, **options)
    return [completions[0] for completions in done]


def prompts(tokenizer: PreTrainedTokenizerBase, facts: pd.DataFrame) -> list[Prompt]:
    """Return the questions as prompts, to ask several networks the same."""
    from repro import sft
    from repro.decoding import Prompt

    encoded = sft.prompts(tokenizer, facts["question"])
    return [Prompt(i, paper.names(o)) for i, o in zip(encoded, facts["object"], strict=True)]


def count(facts: pd.DataFrame, hits: Sequence[bool], cells: Cells | None = None) -> pd.DataFrame:
    """Count answers by topic and level: DataFrame[topic, test_level, correct, total].

    A level without facts has no row: it is absent, not 0.

    Args:
        facts: DataFrame[topic, level, …], the facts asked.
        hits: whether each was answered.
        cells: those of the facts, where they are asked many times.
    """
    table, place = cells or cells_of(facts)
    correct = np.bincount(place, np.asarray(hits, float), len(table)).astype(int)
    made = table.copy()
    made.insert(2, "correct", correct)
    return made


def cells_of(facts: pd.DataFrame) -> Cells:
    """Return DataFrame[topic, test_level, total], and the row of each fact, int[facts]."""
    grouped = facts.groupby(["topic", "level"], sort=True)
    table = grouped.size().rename("total").reset_index().rename(columns={"level": "test_level"})
    return table, grouped.ngroup().to_numpy()


def pack(hits: Sequence[bool]) -> str:
    """Return answers as hexadecimal digits, four questions to a digit: see `unpack`."""
    return np.packbits(np.asarray(hits, bool)).tobytes().hex()


def unpack(digits: str, number: int) -> np.ndarray:
    """Return the `number` answers that `pack` was given: bool[number]."""
    raw = np.frombuffer(bytes.fromhex(digits), np.uint8)
    return np.unpackbits(raw, count=number).astype(bool)


def wilson(correct, total, z: float = Z95) -> tuple[np.ndarray, np.ndarray]:
    """Return the Wilson score interval of a proportion, (low, high) in [0, 1].

    `correct` and `total` are numbers or arrays of one shape; total must be positive.
    """
    correct, total = np.asarray(correct, float), np.asarray(total, float)
    p, scale = correct / total, 1 + z**2 / total
    centre = (p + z**2 / (2 * total)) / scale
    half = z / scale * np.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def acc(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the paper's Acc, the mean over mastery levels, with a 95 % interval.

    Counts are summed over topics and over whatever `by` does not name. The interval of the
    mean combines the Wilson interval of each level (the MOVER method: squared distances to
    the bounds add up), and treats answers as independent.

    Args:
        frame: DataFrame[*by, test_level, correct, total].
        by: columns that tell the rows of the result apart.

    Returns:
        DataFrame[*by, accuracy, low, high (percent), levels, correct, total]; `levels` is
        the number of levels that have facts and enter the mean.
    """
    by = list(by)
    frame = frame[frame["total"] > 0]
    keys = list(dict.fromkeys([*by, "test_level"]))
    sums = frame.groupby(keys)[["correct", "total"]].sum().reset_index()
    low, high = wilson(sums["correct"], sums["total"])
    p = sums["correct"] / sums["total"]
    sums = sums.assign(p=p, below=(p - low) ** 2, above=(high - p) ** 2)
    grouped = sums.groupby(by) if by else sums.groupby(lambda _: 0)
    out = grouped.agg(
        p=("p", "mean"),
        below=("below", "sum"),
        above=("above", "sum"),
        levels=("p", "size"),
        correct=("correct", "sum"),
        total=("total", "sum"),
    )
    out["accuracy"] = 100 * out["p"]
    out["low"] = 100 * (out["p"] - np.sqrt(out["below"]) / out["levels"]).clip(0, 1)
    out["high"] = 100 * (out["p"] + np.sqrt(out["above"]) / out["levels"]).clip(0, 1)
    columns = ["accuracy", "low", "high", "levels", "correct", "total"]
    return out[columns].reset_index() if by else out[columns].reset_index(drop=True)
