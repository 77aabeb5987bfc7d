"""How far fine-tuning moved the first token of an answer: KL divergence over ten logits (§4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from repro import paper
from repro.measures.mastery import template_columns
from repro.models.tokens import encode
from repro.training.prompts import encode_prompts

if TYPE_CHECKING:  # what reads records only, as most do, need not wait for PyTorch
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from repro.inference.cpu.cpu_engine import CpuEngine
    from repro.inference.decoding import Completion

CANDIDATES = 10  # logits that are compared
NEAR = 5  # an answer is near the beginning if it starts within this many tokens


@dataclass
class Reference:
    """The pre-trained side of §4.1.

    Attributes:
        facts: the facts that are compared.
        prompts: the text of each fact's prompt, after its topic's best template.
        logits: (facts, vocabulary), those of the first token after each prompt.
    """

    facts: pd.DataFrame
    prompts: list[str]
    logits: torch.Tensor


def renormalised_kl(
    tuned: torch.Tensor, base: torch.Tensor, candidates: int = CANDIDATES
) -> dict[str, torch.Tensor]:
    """Compute KL(p ∥ p′) over the fine-tuned model's highest logits (§4.1).

    Args:
        tuned: (facts, vocabulary) logits of the fine-tuned model.
        base: (facts, vocabulary) logits of the pre-trained model.
        candidates: how many of the highest logits enter both softmaxes.

    Returns:
        A dict of tensors, computed in float64. Of shape (facts, candidates): `ids` of the tokens
        compared, their logits `tuned` and `base`, their probabilities `p` and `q` after the
        softmax over the candidates. Of shape (facts,): `kl` in nats; identical logits give
        exactly 0.
    """
    tuned_top, ids = tuned.double().topk(candidates, dim=-1)
    base_top = base.double().gather(-1, ids)
    log_p, log_q = tuned_top.log_softmax(-1), base_top.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    kl = (p * (log_p - log_q)).sum(-1).clamp(min=0)  # rounding may give a tiny negative sum
    return {"ids": ids, "tuned": tuned_top, "base": base_top, "p": p, "q": q, "kl": kl}


def best_templates(mastery: pd.DataFrame) -> dict[str, int]:
    """Return the mapping template with the most hits by topic; of equal ones the first.

    `mastery` is DataFrame[topic, t00 …], the hits of each fact after each template.
    """
    sums = mastery.groupby("topic")[template_columns(mastery)].sum()
    return {topic: int(row.to_numpy().argmax()) for topic, row in sums.iterrows()}


def level_compared(mastery: pd.DataFrame, at_least: int) -> int:
    """Return the level whose facts §4.1 compares: 4, or the highest with `at_least` facts.

    The paper's models all have facts of level 4; a small model has hardly any. Level 0 is never
    compared, because its completions hold no answer. If no level has enough facts, the level with
    the most facts is taken.
    """
    sizes = mastery.loc[mastery["level"] > 0, "level"].value_counts().sort_index()
    enough = sizes[sizes >= at_least]
    if len(enough):
        return int(enough.index.max())
    return int(sizes.idxmax()) if len(sizes) else 4


def reference(
    network: PreTrainedModel | CpuEngine,
    tokenizer: PreTrainedTokenizerBase,
    facts: pd.DataFrame,
    max_new_tokens: int = 16,
) -> Reference:
    """Return the pre-trained side of the comparison for facts of one level (§4.1).

    Args:
        network: the pre-trained model.
        tokenizer: its tokenizer.
        facts: DataFrame[fact_id, topic, subject, object, question, t00 …].
        max_new_tokens: length of the greedy completion in which the answer is looked for.

    Returns:
        The facts whose answer starts within the first `NEAR` tokens of the completion, with logits.
    """
    from repro.inference.decoding import Decoding, Prompt, complete, first_logits

    texts = _best_prompts(facts)
    encoded = encode(tokenizer, texts)
    prompts = [
        Prompt(ids, paper.names(name)) for ids, name in zip(encoded, facts["object"], strict=True)
    ]
    completions = complete(network, tokenizer, prompts, Decoding(max_new_tokens))
    near = [
        i
        for i, ([completion], prompt) in enumerate(zip(completions, prompts, strict=True))
        if _starts_early(tokenizer, completion, prompt.names)
    ]
    logits = first_logits(network, [prompts[i].ids for i in near])
    return Reference(facts.iloc[near], [texts[i] for i in near], logits)


def _best_prompts(facts: pd.DataFrame) -> list[str]:
    """Return the text of each fact's prompt, after the template with the most hits in its topic."""
    template = best_templates(facts)
    return [
        paper.TOPICS[fact.topic].mappings[template[fact.topic]].replace("{subject}", fact.subject)
        for fact in facts.itertuples()
    ]


def _starts_early(
    tokenizer: PreTrainedTokenizerBase, completion: Completion, names: Sequence[str]
) -> bool:
    """Tell whether one of the names starts within the first `NEAR` tokens of a completion."""
    text = paper.plain(completion.text).casefold()
    positions = [text.find(paper.plain(name).casefold()) for name in names]
    starts = [position for position in positions if position >= 0]
    if not starts:
        return False
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    beginning = tokenizer.decode(completion.ids[:NEAR], **options)
    # The positions are in the case-folded text without special tokens, so this length is too.
    return min(starts) < len(beginning.casefold())


def compare(
    network: PreTrainedModel | CpuEngine, tokenizer: PreTrainedTokenizerBase, base: Reference
) -> tuple[pd.DataFrame, dict]:
    """Compare a fine-tuned model's first answer token with the pre-trained model's (§4.1).

    Args:
        network: the fine-tuned model.
        tokenizer: its tokenizer.
        base: the pre-trained side, from `reference`.

    Returns:
        DataFrame[topic, facts, kl_sum] (nats; sums, so that runs can be pooled), and one
        worked example, the fact of median divergence (Figure 3); empty if there are no facts.
    """
    from repro.inference.decoding import first_logits

    if base.facts.empty:
        return pd.DataFrame(columns=["topic", "facts", "kl_sum"]), {}
    questions = encode_prompts(tokenizer, base.facts["question"])
    result = renormalised_kl(first_logits(network, questions), base.logits)
    scored = base.facts[["topic"]].assign(kl=result["kl"].tolist())
    table = scored.groupby("topic")["kl"].agg(facts="size", kl_sum="sum").reset_index()
    middle = int(result["kl"].argsort()[len(scored) // 2])
    return table, _example(tokenizer, base, result, middle)


def _example(tokenizer, base: Reference, result: dict, i: int) -> dict:
    """Return what Figure 3 shows of fact number `i`: its texts, and its compared tokens."""
    fact = base.facts.iloc[i]
    return {
        "fact_id": fact["fact_id"],
        "question": fact["question"],
        "answer": fact["object"],
        "template_prompt": base.prompts[i],
        "tokens": [tokenizer.decode([token]) for token in result["ids"][i].tolist()],
        "tuned_logits": result["tuned"][i].tolist(),
        "base_logits": result["base"][i].tolist(),
        "p": result["p"][i].tolist(),
        "q": result["q"][i].tolist(),
        "kl": result["kl"][i].item(),
    }
