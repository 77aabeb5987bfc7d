"""Networks that are not kept apart by padding or a cache are computed text by text, or refused."""

import pytest
import torch
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from repro.errors import ModelError, TrainingError
from repro.inference import transformers_engine
from repro.inference.decoding import Decoding, Prompt, complete, first_logits
from repro.training.batches import batch_function

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 1}
HEADS = {"num_attention_heads": 4, "intermediate_size": 48, "pad_token_id": 2}
SPREAD = {"initializer_range": 0.3}


def rwkv(vocabulary: int) -> RwkvForCausalLM:
    network = RwkvForCausalLM(RwkvConfig(vocab_size=vocabulary, context_length=64, **SIZES))
    for parameter in network.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def mamba(vocabulary: int) -> MambaForCausalLM:
    return MambaForCausalLM(MambaConfig(vocab_size=vocabulary, state_size=8, **SIZES, **SPREAD))


def lfm2(vocabulary: int) -> Lfm2ForCausalLM:
    kinds = {"layer_types": ["conv", "full_attention"], "num_key_value_heads": 2}
    return Lfm2ForCausalLM(Lfm2Config(vocab_size=vocabulary, **kinds, **SIZES, **HEADS, **SPREAD))


def recurrent_gemma(vocabulary: int) -> RecurrentGemmaForCausalLM:
    of_griffin = {"lru_width": 32, "attention_window_size": 64}
    sizes = SIZES | HEADS | of_griffin | {"num_hidden_layers": 3}
    return RecurrentGemmaForCausalLM(RecurrentGemmaConfig(vocab_size=vocabulary, **sizes))


def llama(vocabulary: int, **changes) -> LlamaForCausalLM:
    config = LlamaConfig(vocab_size=vocabulary, **SIZES, **HEADS, **SPREAD, **changes)
    return LlamaForCausalLM(config)


def longrope(vocabulary: int, trained: int = 8) -> LlamaForCausalLM:
    """Return a LLaMA whose rotary embedding has other angles for texts of more than 8 tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 100.0, "factor": 4.0}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0, 4.0, 6.0, 8.0]}
    rope |= {"original_max_position_embeddings": trained}
    return llama(vocabulary, rope_parameters=rope, max_position_embeddings=32)


def dynamic(vocabulary: int) -> LlamaForCausalLM:
    """Return a LLaMA whose rotary embedding is stretched beyond 8 tokens (dynamic NTK)."""
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
    return llama(vocabulary, rope_parameters=rope, max_position_embeddings=8)


def chunked(vocabulary: int) -> Llama4ForCausalLM:
    """Return a Llama 4 whose tokens attend only within chunks of 6."""
    settings = {"attention_chunk_size": 6, "num_key_value_heads": 2, "head_dim": 8}
    settings |= {"intermediate_size_mlp": 48, "num_local_experts": 2, "num_experts_per_tok": 1}
    return Llama4ForCausalLM(
        Llama4TextConfig(vocab_size=vocabulary, **settings, **SIZES, **HEADS, **SPREAD)
    )


NETWORKS = [rwkv, mamba, lfm2, recurrent_gemma, longrope, chunked]


def greedily(network, ids: list[int], steps: int, stop: int = 1) -> list[int]:
    """Return the most probable continuation, every token from the whole text by itself."""
    generated = []
    for _ in range(steps):
        with torch.no_grad():
            logits = network(torch.tensor([ids + generated]), use_cache=False).logits[0, -1]
        if (token := int(logits.argmax())) == stop:
            break
        generated.append(token)
    return generated


@pytest.mark.parametrize("make", NETWORKS)
def test_completions_are_those_of_each_text_alone(tiny_loaded, make):
    tokenizer = tiny_loaded[1]
    torch.manual_seed(3)
    network = make(len(tokenizer)).eval()
    starts = [[9, 8, 7, 6, 5, 11, 12], [9, 8], [30, 31, 32], [9, 8, 7, 6]]
    prompts = [Prompt(ids) for ids in starts]
    completions = complete(network, tokenizer, prompts, Decoding(6))
    assert [done.ids for [done] in completions] == [greedily(network, ids, 6) for ids in starts]
    logits = first_logits(network, starts)
    for ids, row in zip(starts, logits, strict=True):
        with torch.no_grad():
            alone = network(torch.tensor([ids]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [rwkv, mamba, recurrent_gemma])
def test_a_network_whose_state_runs_on_is_not_fine_tuned(make):
    torch.manual_seed(3)
    network = make(50).eval()
    if transformers_engine.pads(network, 9):
        assert batch_function(network, 9)
    else:
        with pytest.raises(TrainingError, match="does not keep texts of a batch apart"):
            batch_function(network, 9)


def test_longrope_is_padded_only_while_all_texts_are_short():
    torch.manual_seed(3)
    network = longrope(50, trained=12).eval()
    assert transformers_engine.pads(network, 12)
    assert not transformers_engine.pads(network, 13)


def test_dynamic_ntk_is_refused_beyond_the_length_it_stretches_from(tiny_loaded):
    tokenizer = tiny_loaded[1]
    torch.manual_seed(3)
    network = dynamic(len(tokenizer)).eval()
    [[done]] = complete(network, tokenizer, [Prompt([9, 8, 7])], Decoding(5))
    assert done.ids == greedily(network, [9, 8, 7], 5)
    with pytest.raises(ModelError, match=r"texts of at most 8 tokens.*, not 9"):
        complete(network, tokenizer, [Prompt([9, 8, 7])], Decoding(6))


def losses(network, batch) -> float:
    """Return the mean loss of a batch that `batch_function` has made."""
    targets = batch.pop("targets")
    with torch.no_grad():
        logits = network(**batch, use_cache=False).logits
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets))


@pytest.mark.parametrize(("make", "longest"), [(chunked, 6), (longrope, 8), (dynamic, 8)])
def test_a_network_is_fine_tuned_on_texts_that_do_not_change_their_neighbours(make, longest):
    torch.manual_seed(3)
    network = make(50).eval()
    texts = [[9, 8, 7, 6, 5, 11, 12, 13, 14][:longest], [9, 8, 7], [30, 31, 32, 33]]
    examples = [(ids, [-100, *ids[1:]]) for ids in texts]
    alone = [losses(network, batch_function(network, longest)([example])) for example in examples]
    counts = torch.tensor([len(ids) - 1.0 for ids in texts])
    together = losses(network, batch_function(network, longest)(examples))
    assert together == pytest.approx(float(torch.tensor(alone) @ counts / counts.sum()), abs=1e-5)
    with pytest.raises((TrainingError, ModelError), match=r"apart|dynamic NTK"):
        batch_function(network, longest + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_ordinary_network_has_its_cache(dtype):
    torch.manual_seed(3)
    assert transformers_engine.caches(llama(50).to(dtype).eval(), 60)
    assert not transformers_engine.caches(rwkv(50).to(dtype).eval(), 60)


def test_a_network_that_cannot_be_computed_is_one_line(monkeypatch):
    network = llama(50).eval()

    def forward(*_, **__):
        raise NotImplementedError("no kernel\nfor this")

    monkeypatch.setattr(network, "forward", forward)
    with pytest.raises(ModelError, match="cannot be computed here: no kernel for this"):
        transformers_engine.pads(network, 9)
