"""LoRA: merged exactly, nothing left behind, and errors with a name."""

import copy

import pytest
import torch

from repro.errors import TrainingError
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


def is_linear(module):
    return isinstance(module, torch.nn.Linear)


def test_the_update_has_the_rank_of_the_adapter(network, tiny_loaded, chosen):
    before = restore.snapshot(network)
    lora.finetune(network, tiny_loaded[1], chosen, RECIPE, Adapter(rank=2))
    name = "model.layers.0.mlp.up_proj.weight"
    values = torch.linalg.svdvals(restore.snapshot(network)[name] - before[name])
    assert values[1] > 10 * values[2] and values[2] < 1e-5


def test_the_same_seed_gives_the_same_weights(tiny_loaded, chosen):
    found = []
    for _ in range(2):
        network = copy.deepcopy(tiny_loaded[0])
        lora.finetune(network, tiny_loaded[1], chosen, RECIPE, Adapter(rank=2))
        found.append(restore.snapshot(network))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


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
