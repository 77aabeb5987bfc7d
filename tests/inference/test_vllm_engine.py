"""vLLM completes as the layers of transformers do, with our draws and with weights in place."""

import copy
from importlib import util

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from repro import random_streams
from repro.errors import ModelError
from repro.inference.decoding import CompletionTexts, Decoding, Prompt, complete, first_logits
from repro.inference.vllm_engine import VllmEngine, _before, _drawn
from repro.measures import mastery
from repro.restoration import restore

needs_vllm = pytest.mark.skipif(
    util.find_spec("vllm") is None, reason="vLLM is not installed: pip install 'repro[vllm]'"
)
SAMPLED = Decoding(8, draws=3, temperature=0.7, seed=5)


def test_draws_carry_the_random_numbers_of_their_labels():
    prompts = [Prompt([1], label="P17-3|0"), Prompt([2], label="P17-3|1")]
    drawn = list(_drawn(prompts, SAMPLED))
    labels = [f"{prompt.label}|{draw}" for prompt in prompts for draw in range(3)]
    numbers = [random_streams.uniforms(5, label, 8).tolist() for label in labels]
    assert drawn == [{"numbers": each, "temperature": 0.7} for each in numbers]
    assert list(_drawn(prompts, Decoding(8))) == [None, None]


def test_ids_end_before_what_ends_a_completion():
    assert _before([5, 6, 1, 7, 1], [0, 1]) == [5, 6]
    assert _before([1], [1]) == [] and _before([5, 6], [1]) == [5, 6] == _before([5, 6], [])


def test_what_is_generated_after_an_answer_is_cut_where_other_engines_stop(tiny_loaded, tiny_facts):
    network, tokenizer = tiny_loaded
    asked = mastery.prompts(tokenizer, tiny_facts.iloc[:12], 4)
    whole = complete(network, tokenizer, [Prompt(p.ids, (), p.label) for p in asked], SAMPLED)
    stopped = complete(network, tokenizer, asked, SAMPLED)
    texts = CompletionTexts(tokenizer, network)
    shorter = 0
    for prompt, ones, others in zip(asked, whole, stopped, strict=True):
        for one, other in zip(ones, others, strict=True):
            assert texts.until_answer(prompt.names, one.ids, 8) == other
            shorter += len(other.ids) < len(one.ids)
    assert shorter > 5


# --- with vLLM itself -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(tiny_loaded, tmp_path_factory):
    """A random LLaMA of heads that vLLM computes on a CPU: the network, its tokenizer, vLLM."""
    tokenizer, folder = tiny_loaded[1], tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    config = LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=True, initializer_range=0.1,
        bos_token_id=0, eos_token_id=1, **sizes,
    )  # fmt: skip
    network = LlamaForCausalLM(config).eval()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return network, tokenizer, VllmEngine(folder, torch.float32)


@pytest.fixture(scope="module")
def prompts(loaded, tiny_facts) -> list[Prompt]:
    """Prompts of several lengths that begin alike."""
    return mastery.prompts(loaded[1], tiny_facts.iloc[::20], 6)


@needs_vllm
@pytest.mark.parametrize("decoding", [Decoding(8), SAMPLED], ids=["greedy", "sampled"])
def test_tokens_are_those_of_transformers(loaded, prompts, decoding):
    network, tokenizer, engine = loaded
    assert complete(engine, tokenizer, prompts, decoding) == complete(
        network, tokenizer, prompts, decoding
    )


@needs_vllm
def test_first_logits_are_those_of_transformers(loaded, prompts):
    network, _, engine = loaded
    ids = [prompt.ids for prompt in prompts]
    assert (first_logits(engine, ids) - first_logits(network, ids)).abs().max() < 1e-4


@needs_vllm
def test_weights_are_written_in_place_and_the_cache_of_prefixes_with_them(loaded, prompts):
    network, tokenizer, engine = loaded
    base, tuned = restore.snapshot(network), copy.deepcopy(network)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    changed, before = restore.snapshot(tuned), complete(engine, tokenizer, prompts, SAMPLED)
    restore.write(engine, changed)
    after = complete(engine, tokenizer, prompts, SAMPLED)
    assert after == complete(tuned, tokenizer, prompts, SAMPLED) != before
    ranking = restore.rank(base, changed)
    with restore.restored(engine, base, changed, ranking, 30):
        restored = complete(engine, tokenizer, prompts, SAMPLED)
    with restore.restored(tuned, base, changed, ranking, 30):
        assert restored == complete(tuned, tokenizer, prompts, SAMPLED) != after
    assert complete(engine, tokenizer, prompts, SAMPLED) == after
    restore.write(engine, base)
    assert complete(engine, tokenizer, prompts, SAMPLED) == before


@needs_vllm
def test_damaged_weights_are_an_error_not_a_wrong_answer(loaded, prompts):
    network, tokenizer, engine = loaded
    base = restore.snapshot(network)
    name = "model.layers.0.mlp.down_proj.weight"
    restore.write(engine, base | {name: torch.full_like(base[name], torch.nan)})
    with pytest.raises(ModelError, match="NaN"):
        complete(engine, tokenizer, prompts[:2], Decoding(4))
    restore.write(engine, base)
