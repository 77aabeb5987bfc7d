"""LoRA: merged exactly, nothing left behind, and errors with a name."""

import copy

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from repro.errors import TrainingError
from repro.models import registry
from repro.models.architecture import ALL_LINEAR, PROJECTIONS, adapted_modules
from repro.restoration import restore
from repro.training import lora
from repro.training.recipe import Adapter, Recipe

RECIPE = Recipe(learning_rate=1e-2)


@pytest.fixture
def network(tiny_loaded):
    return copy.deepcopy(tiny_loaded[0])


@pytest.fixture
def chosen(tiny_facts):
    return tiny_facts[tiny_facts["split"] == "train"].head(24)


def test_an_adapter_is_merged_and_leaves_nothing_behind(network, tiny_loaded, chosen):
    before, names = restore.snapshot(network), set(vars(network))
    done = lora.finetune(network, tiny_loaded[1], chosen, RECIPE, Adapter(rank=2))
    after = restore.snapshot(network)
    assert list(after) == list(before) and set(vars(network)) == names
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.split(".")[-2] in Adapter().modules}
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not network.training and done["steps"] == 3
    sizes = [m.in_features + m.out_features for m in network.model.layers.modules() if is_linear(m)]
    assert done["trained"] == 2 * sum(sizes)


SMALL = {"vocab_size": 700, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ENDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
BLOOM = {"n_layer": 2, "n_head": 4, "vocab_size": 700, "hidden_size": 32}
FAMILIES = {
    "gpt2": (
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 700},
        ["c_attn", "c_fc", "c_proj"],
    ),
    "bloom": (BLOOM, ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]),
    "opt": (
        SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32},
        ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"],
    ),
    "phi3": (
        SMALL | {"intermediate_size": 48, "num_key_value_heads": 2},
        ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"],
    ),
}
EXPERTS = SMALL | {"intermediate_size": 48, "num_key_value_heads": 2, "num_local_experts": 2}


def of_family(family: str, settings: dict):
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**settings, **ENDS)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_all_matrices_of_the_layers_are_adapted_whatever_their_names(family, tiny_loaded, chosen):
    settings, modules = FAMILIES[family]
    network = of_family(family, settings)
    before = restore.snapshot(network)
    adapter = Adapter(rank=2, modules=ALL_LINEAR)
    done = lora.finetune(network, tiny_loaded[1], chosen, RECIPE, adapter)
    after = restore.snapshot(network)
    assert list(after) == list(before) and done["modules"] == modules
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in moved} == set(modules)
    inside = {n for n in before if before[n].ndim > 1 and any(c.isdigit() for c in n.split("."))}
    assert moved == inside  # every matrix of every layer, and nothing else


@pytest.mark.parametrize("family", [*FAMILIES, "mixtral"])
def test_a_model_that_would_be_adapted_in_part_is_refused(family, tiny_loaded, chosen):
    settings, _ = FAMILIES.get(family, (EXPERTS, []))
    network = of_family(family, settings)
    before = restore.snapshot(network)
    for modules in (PROJECTIONS, ALL_LINEAR) if family == "mixtral" else (PROJECTIONS,):
        with pytest.raises(TrainingError, match=r"no module named|experts\.") as error:
            adapter = Adapter(rank=2, modules=modules)
            lora.finetune(network, tiny_loaded[1], chosen, RECIPE, adapter)
        assert "\n" not in str(error.value)
    after = restore.snapshot(network)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_choice_of_the_callers_own_may_leave_out_what_it_likes(network, tiny_loaded, chosen):
    before = restore.snapshot(network)
    adapter = Adapter(rank=2, modules=("q_proj", "v_proj"))
    done = lora.finetune(network, tiny_loaded[1], chosen, RECIPE, adapter)
    assert done["modules"] == ["q_proj", "v_proj"]
    after = restore.snapshot(network)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[-2] for name in moved} == {"q_proj", "v_proj"}


def test_the_key_says_which_matrices_are_adapted(tiny_model, tmp_path):
    assert all(adapted_modules(model) == PROJECTIONS for model in registry.entries().values())
    assert adapted_modules(registry.entry(tiny_model)) == PROJECTIONS
    of_family("gpt2", FAMILIES["gpt2"][0]).save_pretrained(tmp_path)
    assert adapted_modules(registry.entry(tmp_path)) == ALL_LINEAR
    assert adapted_modules(registry.entry("a/model@" + "0" * 40)) == ALL_LINEAR


def is_linear(module):
    return isinstance(module, torch.nn.Linear)


def test_the_update_has_the_rank_of_the_adapter(network, tiny_loaded, chosen):
    before = restore.snapshot(network)
    lora.finetune(network, tiny_loaded[1], chosen, RECIPE, Adapter(rank=2))
    name = "model.layers.0.mlp.up_proj.weight"
    values = torch.linalg.svdvals(restore.snapshot(network)[name] - before[name])
    assert values[1] > 10 * values[2] and values[2] < 1e-5


def test_the_same_seed_gives_the_same_weights(tiny_loaded, chosen):
    snapshots = []
    for _ in range(2):
        network = copy.deepcopy(tiny_loaded[0])
        lora.finetune(network, tiny_loaded[1], chosen, RECIPE, Adapter(rank=2))
        snapshots.append(restore.snapshot(network))
    assert all(torch.equal(snapshots[0][name], snapshots[1][name]) for name in snapshots[0])


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (Adapter(rank=0), "rank of at least 1, not 0"),
        (Adapter(rank=-1), "not -1"),
        (Adapter(modules=("c_attn",)), "no module named c_attn"),
        (Adapter(modules=()), "no module named nothing"),
    ],
)
def test_an_adapter_that_cannot_be_is_named(network, tiny_loaded, chosen, adapter, message):
    before = restore.snapshot(network)
    with pytest.raises(TrainingError, match=message) as error:
        lora.finetune(network, tiny_loaded[1], chosen, RECIPE, adapter)
    assert "\n" not in str(error.value)
    after = restore.snapshot(network)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_after_an_error_the_network_is_as_it_was(network, tiny_loaded, chosen):
    before = restore.snapshot(network)
    with pytest.raises(TrainingError, match="pool is empty"):
        lora.finetune(network, tiny_loaded[1], chosen.iloc[:0], RECIPE, Adapter(rank=2))
    after = restore.snapshot(network)
    assert list(after) == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in network.parameters())
