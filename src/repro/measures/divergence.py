"""How far fine-tuning moved the first token: KL over ten logits (§4.1)."""

from __future__ import annotations

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

CANDIDATES = 10
NEAR = 5  # an answer is near the beginning if it starts within this many tokens


@dataclass
class Reference:
    """The pre-trained side of §4.1: facts compared, prompts, and first-token logits."""

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
        dict(ids, tuned, base, p, q of shape (facts, candidates); kl of shape (facts,), in
        nats). Computed in float64; identical logits give exactly 0.
    """
    top, ids = tuned.double().topk(candidates, dim=-1)
    same = base.double().gather(-1, ids)
    log_p, log_q = top.log_softmax(-1), same.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
    return {"ids": ids, "tuned": top, "base": same, "p": log_p.exp(), "q": log_q.exp(), "kl": kl}


def best_templates(mastery: pd.DataFrame) -> dict[str, int]:
    """Return, per topic, the mapping template with the most hits (ties: the first)."""
    sums = mastery.groupby("topic")[template_columns(mastery)].sum()
    return {topic: int(row.to_numpy().argmax()) for topic, row in sums.iterrows()}


def level_compared(mastery: pd.DataFrame, at_least: int) -> int:
    """Return the level of §4.1's facts: 4, or the highest below it with `at_least` facts.

    A small model masters hardly any fact at level 4; the paper's models all do. Level 0 is never
    compared, because its completions hold no answer. Where no level has enough facts, the
    level with the most is taken.
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
    """Prepare the pre-trained side for facts of one level.

    Args:
        network: the pre-trained model.
        tokenizer: its tokenizer.
        facts: DataFrame[fact_id, topic, subject, object, question, t00 …].
        max_new_tokens: length of the greedy completion searched for the answer.

    Returns:
        The facts whose answer starts near the beginning of the completion, with logits.
    """
    from repro.inference.decoding import Decoding, Prompt, complete, first_logits

    template = best_templates(facts)
    texts = [
        paper.TOPICS[f.topic].mappings[template[f.topic]].replace("{subject}", f.subject)
        for f in facts.itertuples()
    ]
    encoded = encode(tokenizer, texts)
    prompts = [
        Prompt(ids, paper.names(obj)) for ids, obj in zip(encoded, facts["object"], strict=True)
    ]
    completions = complete(network, tokenizer, prompts, Decoding(max_new_tokens))
    near = [
        i
        for i, (c, prompt) in enumerate(zip(completions, prompts, strict=True))
        if _starts_early(tokenizer, c[0], prompt.names)
    ]
    logits = first_logits(network, [prompts[i].ids for i in near])
    return Reference(facts.iloc[near], [texts[i] for i in near], logits)


def _starts_early(tokenizer, completion, names) -> bool:
    text = paper.plain(completion.text).casefold()
    starts = [at for n in names if (at := text.find(paper.plain(n).casefold())) >= 0]
    if not starts:
        return False
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    head = tokenizer.decode(completion.ids[:NEAR], **options)
    return min(starts) < len(head.casefold())  # both as the text was: folded, no special tokens


def compare(
    network: PreTrainedModel | CpuEngine, tokenizer: PreTrainedTokenizerBase, base: Reference
) -> tuple[pd.DataFrame, dict]:
    """Compare a fine-tuned model's first answer token with the pre-trained model's.

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
