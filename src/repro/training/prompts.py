"""The prompt of Appendix A, and training examples with it, as token ids with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from repro.errors import TrainingError
from repro.models.tokens import encode

if TYPE_CHECKING:  # transformers is loaded with the model
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a position without loss, as PyTorch's cross-entropy has it
Example = tuple[list[int], list[int]]  # token ids, and one label for each


def encode_prompts(tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each question's prompt: BOS, if the tokenizer has one, and text."""
    texts = [f"<|question|> {question.strip()} <|answer|>" for question in questions]
    return encode(tokenizer, texts)


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], answers: Sequence[str]
) -> list[Example]:
    """Return the token ids and the labels of training examples (Appendix A).

    The loss is on the answer and EOS only; every other label is `IGNORED`. An example begins with
    exactly the ids of the prompt that is used to evaluate.

    Raises:
        TrainingError: the tokenizer has no EOS, or it would merge the end of a prompt with the
            start of the answer.
    """
    if tokenizer.eos_token_id is None:
        raise TrainingError("this tokenizer has no end-of-text token: set its eos_token")
    texts = [
        f"<|question|> {question.strip()} <|answer|> {answer.strip()} "
        for question, answer in zip(questions, answers, strict=True)
    ]
    examples, prompts = [], encode_prompts(tokenizer, questions)
    for text, prompt, ids in zip(texts, prompts, encode(tokenizer, texts), strict=True):
        if ids[: len(prompt)] != prompt:
            raise TrainingError(f"this tokenizer does not separate prompt and answer in {text!r}")
        ids = [*ids, tokenizer.eos_token_id]
        examples.append((ids, [IGNORED] * len(prompt) + ids[len(prompt) :]))
    return examples
