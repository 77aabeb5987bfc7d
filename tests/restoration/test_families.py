"""Families that name their tensors otherwise than LLaMA: regions, layers, and the order of ties."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from repro.restoration import regions
from repro.restoration.ranking import how_many, rank
from repro.restoration.tensor_pairs import pair
from repro.restoration.thresholds import selected

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2}
WIDE = {**SIZES, "intermediate_size": 24}
OF_GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 12, "n_head": 2, "n_positions": 16}
FAMILIES = {
    "gpt2": OF_GPT2,
    "gptj": {**OF_GPT2, "rotary_dim": 4},
    "gpt_bigcode": OF_GPT2,
    "bloom": {"vocab_size": 40, "hidden_size": 16, "n_layer": 12, "n_head": 2},
    "falcon": SIZES,
    "mpt": {"vocab_size": 40, "d_model": 16, "n_layers": 12, "n_heads": 2},
    "gpt_neox": WIDE,
    "opt": {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 16},
    "phi3": {**WIDE, "num_key_value_heads": 2, "pad_token_id": 0},
    "llama": {**WIDE, "num_key_value_heads": 1},
}


def weights_of(family: str) -> dict[str, torch.Tensor]:
    """Return the parameters of a small random model of 12 layers, by name."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    network = AutoModelForCausalLM.from_config(config)
    return {name: p.detach() for name, p in network.named_parameters()}


def is_norm(name: str) -> bool:
    return "norm" in name or ".ln_" in name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_transformer_is_every_weight_in_a_layer_but_the_norms(family):
    names = list(weights_of(family))
    inside = [n for n in names if any(part.isdigit() for part in n.split(".")) and not is_norm(n)]
    assert sorted(regions.tensors_in(names)) == sorted(inside)
    assert [regions.layer(n) for n in regions.tensors_in(names)] == sorted(
        regions.layer(n) for n in inside
    )
    assert {regions.layer(n) for n in inside} == set(range(12))
    parts = [set(regions.tensors_in(names, region)) for region in ("attention", "mlp")]
    assert not parts[0] & parts[1] and parts[0] | parts[1] == set(inside)
    tenth = regions.tensors_in(names, layers="10")
    assert len(tenth) * 12 == len(inside) and {regions.layer(n) for n in tenth} == {10}
    assert "embed" in " ".join(regions.tensors_in(names, "embedding")) or family in ("gpt2", "gptj",
        "gpt_bigcode", "mpt")  # fmt: skip


def as_documented(name: str) -> tuple:
    """Return where a tensor comes: the order that the page on the tool states, written anew."""
    digits = [int(part) for part in name.split(".") if part.isdigit()]
    first = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    places = [place for place, part in enumerate(first) if part in name.split(".")]
    return (*digits[:1], *(places or [len(first)]), name.endswith("bias"), name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_are_taken_in_the_order_that_the_page_states(family, dtype):
    """All scores are 1 or 0, so nearly every threshold is a tie, and the order decides."""
    base = {n: torch.ones_like(w) for n, w in weights_of(family).items()}
    generator = torch.Generator().manual_seed(1)
    tuned = {n: w + (torch.rand(w.shape, generator=generator) < 0.5) for n, w in base.items()}
    names = list(pair(base, tuned).shapes)
    assert names == sorted(names, key=as_documented)
    moved = torch.cat([(tuned[n] != base[n]).flatten() for n in sorted(names, key=as_documented)])
    order = np.argsort(~moved.numpy(), kind="stable")
    shuffled = [dict(sorted(w.items(), key=lambda item: item[0][::-1])) for w in (base, tuned)]
    ranking = rank(*shuffled, "transformer", dtype, block_size=50, threads=2)
    for percent in (3.0, 20.0, 60.0):
        mask = selected(ranking, percent)
        expected = np.sort(order[: how_many(len(moved), percent)])
        assert np.flatnonzero(mask).tolist() == expected.tolist()


def test_masks_and_angles_of_old_checkpoints_are_no_parameters():
    names = [
        "h.0.attn.bias",
        "h.0.attn.masked_bias",
        "h.0.attn.c_attn.bias",
        "h.0.attn.c_attn.weight",
    ]
    assert regions.tensors_in(names) == ["h.0.attn.c_attn.weight", "h.0.attn.c_attn.bias"]
    neox = [
        "gpt_neox.layers.0.attention.bias",
        "gpt_neox.layers.0.attention.masked_bias",
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
        "gpt_neox.layers.0.attention.dense.bias",
    ]
    assert regions.tensors_in(neox) == neox[3:]


def test_an_image_encoder_beside_layers_is_not_the_language_model():
    names = ["visual.blocks.0.attn.qkv.weight", "model.layers.0.self_attn.q_proj.weight"]
    assert regions.tensors_in(names) == names[1:]
