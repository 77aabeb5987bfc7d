"""XSum, news documents and their summaries: its files, and how documents are shortened.

`repro.data.task_examples` uses the same names of this module as of `repro.data.gsm8k`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what reads records only, as most do, need not wait for PyTorch
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("document", "summary")
SPLIT_COLUMN = "split"
# The Hub's own conversion: `datasets` no longer runs the script in this repository.
ON_HUB = {"path": "EdinburghNLP/xsum", "revision": "refs/convert/parquet"}


def paths(folder: Path) -> list[Path]:
    """Return the files `*.jsonl` of a folder of XSum; if there is none, this pattern."""
    return sorted(folder.glob("*.jsonl")) or [folder / "*.jsonl"]


def reason_to_skip(summary: str) -> str:
    """Return why a summary cannot be used, or an empty text: ROUGE must find a word in it."""
    return "" if has_word(summary) else "without a word that ROUGE knows"


def has_word(text: str) -> bool:
    """Tell whether ROUGE finds a word in a text.

    The tokenizer of its usual implementation knows a to z and 0 to 9, and drops all other
    characters. So a text in another script has no word for it, and would always score 0.
    """
    return re.search("[a-z0-9]", text.lower()) is not None


def reference(summary: str) -> str:
    """Return a summary in the form for training: unchanged."""
    return summary


def shorten(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int) -> list[str]:
    """Return the texts, each cut off after its first `limit` tokens."""
    options = {"add_special_tokens": False, "return_offsets_mapping": True}
    spans = tokenizer(list(texts), **options).offset_mapping
    return [
        text[: ends[limit - 1][1]] if len(ends) > limit else text
        for text, ends in zip(texts, spans, strict=True)
    ]
