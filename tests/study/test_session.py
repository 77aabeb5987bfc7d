"""A model in memory: how it is computed, and set back after fine-tuning."""

from copy import deepcopy

import pytest
import tiny
import torch

from repro.models import devices, loading, registry
from repro.restoration import restore
from repro.study.session import Session
from repro.training.recipe import Recipe


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_computed_in_the_number_format_of_its_study(monkeypatch, small, dtype):
    """In bfloat16 it trains float32 weights and answers with a copy of them."""
    network = tiny.network(700)

    def load_model(_, wanted_dtype=torch.float32):
        same = wanted_dtype is torch.float32
        return (network if same else deepcopy(network).to(wanted_dtype)), None

    monkeypatch.setattr(devices, "SMALL_MODEL", network.num_parameters() - (not small))
    monkeypatch.setattr(devices, "inference_dtype", lambda device, shapes: dtype)
    monkeypatch.setattr(loading, "load_model", load_model)
    session = Session(registry.entry("micro-m"), str(dtype).removeprefix("torch."))
    session.load()
    assert session.small is (small and dtype is torch.float32)
    assert (session.reader.dtype, session.trainer.dtype) == (dtype, dtype)
    assert session.reader.native is (dtype is torch.bfloat16)
    assert session.trainer.network is network
    assert (session.decoder is network) is (dtype is torch.float32)


def test_a_session_loads_once_and_goes_back_to_the_bits_it_loaded(tiny_model, tiny_facts):
    session = Session(registry.entry(tiny_model), bars=False)
    session.load()
    network, before = session.network, restore.snapshot(session.network)
    session.load()
    assert session.network is network
    recipe = Recipe(learning_rate=1e-3)
    first, tuned = session.finetune(tiny_facts[:16], recipe, "")
    assert any((tuned[name] != weights).any() for name, weights in before.items())
    again, same = session.finetune(tiny_facts[:16], recipe, "")  # from the pre-trained weights
    assert first["loss"] == again["loss"]
    assert all((same[name] == weights).all() for name, weights in tuned.items())
    session.reset()
    for network in {session.network, session.decoder}:
        held = restore.snapshot(network)
        assert all((held[n] == w.to(held[n].dtype)).all() for n, w in before.items())
