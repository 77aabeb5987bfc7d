"""A two-layer LLaMA and its tokenizer, pre-trained for a second on made-up facts."""

from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from repro import paper


def tokenizer(texts: list[str], bos: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with separate BOS and EOS and no padding token.

    `bos`: of a family that puts BOS before every text, as LLaMA does.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 700, "initial_alphabet": alphabet, "show_progress": False}
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(special_tokens=["<s>", "</s>"], **options)
    )
    if bos:
        backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def network(vocabulary: int, seed: int = 0) -> LlamaForCausalLM:
    """Return a random float32 LLaMA with grouped-query attention and tied embeddings."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config).eval()


def statements(facts: pd.DataFrame) -> list[str]:
    """Return each fact in each of the paper's mapping templates of its topic."""
    return [
        f"{mapping.replace('{subject}', fact.subject)} {fact.object}."
        for fact in facts.itertuples()
        for mapping in paper.TOPICS[fact.topic].mappings
    ]


def pretrain(model, tokens, texts: list[str], steps: int = 50, seed: int = 0) -> None:
    """Train on random batches of statements, and stop before every one is known by heart."""
    encoded = tokens(texts).input_ids
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = [encoded[i] for i in torch.randint(len(encoded), (16,), generator=generator)]
        width = max(map(len, batch))
        ids = torch.tensor([b + [1] * (width - len(b)) for b in batch])
        labels = torch.tensor([b + [-100] * (width - len(b)) for b in batch])
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def build(folder: Path, facts: pd.DataFrame) -> Path:
    """Write a tiny model that has seen every second fact: it is at level 0 for the others."""
    texts = statements(facts)
    tokens = tokenizer(texts + facts["question"].tolist())
    model = network(len(tokens))
    pretrain(model, tokens, statements(facts.iloc[::2]))
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def bigram(table: torch.Tensor) -> LlamaForCausalLM:
    """Return a LLaMA whose next-token logits after token i are row i of `table`.

    Embeddings are one-hot and its only layer writes nothing, so each answer can be worked out
    by hand while the cache and the attention run as in any other model.
    """
    size = len(table)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=8,
        max_position_embeddings=128,
        rms_norm_eps=0.0,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.copy_(table.T / size**0.5)  # the last norm scales one-hot by √size
    return model


def walk(tokens, *paths: list[int], sure: float = 60.0) -> LlamaForCausalLM:
    """Return a bigram model that goes from each token of a path to the next for certain."""
    table = torch.zeros(len(tokens), len(tokens))
    for path in paths:
        for before, after in pairwise(path):
            table[before, after] = sure
    return bigram(table)
