"""Keys and values in place, against transformers' own cache; and who keeps which row."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, Gemma3ForCausalLM, Gemma3TextConfig
from transformers.cache_utils import DynamicLayer

from repro.inference import kv_cache


def states(rows: int, columns: int, generator) -> torch.Tensor:
    return torch.randn(rows, 2, columns, 4, generator=generator)


def test_a_layer_in_place_keeps_what_a_growing_one_keeps():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = kv_cache.InPlaceLayer(6, 9), DynamicLayer()
    for rows, columns, chosen in ((2, 4, [0, 0, 1, 1, 1]), (5, 1, [3, 1, 0]), (3, 2, [2, 0, 1, 1])):
        keys, values = states(rows, columns, generator), states(rows, columns, generator)
        for got, expected in zip(
            ours.update(keys, values), theirs.update(keys, values), strict=True
        ):
            assert torch.equal(got, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(3) == theirs.get_mask_sizes(3)
        for layer in (ours, theirs):
            layer.batch_select_indices(torch.tensor(chosen))
        assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)


def test_rows_stay_where_they_are_in_memory():
    layer = kv_cache.InPlaceLayer(4, 3)
    layer.update(torch.ones(4, 1, 2, 1), torch.ones(4, 1, 2, 1))
    where = layer.keys.data_ptr()
    layer.batch_select_indices(torch.arange(3))
    keys, _ = layer.update(torch.ones(3, 1, 1, 1), torch.ones(3, 1, 1, 1))
    assert keys.shape == (3, 1, 3, 1) and keys.data_ptr() == where


def test_rows_are_filled_from_packed_ones():
    cache = kv_cache.Cache(layers=[kv_cache.InPlaceLayer(3, 5) for _ in range(2)])
    generator, nodes = torch.Generator().manual_seed(0), torch.tensor([[0, 1, 3, 4], [0, 1, 2, 0]])
    for first, some in ((0, nodes), (2, nodes[1:, :2])):
        row = kv_cache.Cache(layers=[DynamicLayer() for _ in range(2)])
        keys_and_values = [states(1, 5, generator) for _ in range(2)]
        for layer in range(2):
            row.update(*keys_and_values, layer)
        kv_cache.take(cache, first, some, row)
        for buffer, states_ in zip(cache.layers[1]._buffers, keys_and_values, strict=True):
            expected = torch.stack([states_[0][:, places] for places in some])
            assert torch.equal(buffer[first : first + len(some), :, : some.shape[1]], expected)
    kv_cache.show(cache, 3, 4)
    whole = cache.layers[1].keys
    assert whole.shape == (3, 2, 4, 4)
    assert not whole[2, :, 2:].any()  # a masked column still enters the products: never NaN


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=30))
def test_every_continuation_gets_one_row(pairs):
    of, tokens = (np.array(side) for side in zip(*pairs, strict=True))
    parents, follow, at = kv_cache.arrange(of, tokens)
    assert list(zip(parents[at], follow[at], strict=True)) == pairs
    assert len(parents) == len(set(pairs))
    assert sorted(set(at.tolist())) == list(range(len(parents)))
    # A row that goes on and fits stays where it is.
    for row in set(of.tolist()):
        assert row >= len(parents) or parents[row] == row


def gemma(window: int) -> Gemma3ForCausalLM:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=700,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=window,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        initializer_range=0.3,
    )
    return Gemma3ForCausalLM(config).eval()


@pytest.mark.parametrize(("window", "in_place"), [(20, True), (19, False)])
def test_a_sliding_window_that_is_long_enough_is_in_place(window, in_place):
    cache = kv_cache.make(gemma(window), 4, 20)
    assert kv_cache.is_in_place(cache) is in_place
    assert in_place or isinstance(cache, DynamicCache)
    assert not kv_cache.is_in_place(kv_cache.make(gemma(20), 4, 20, in_place=False))


def test_a_batch_takes_what_is_free_on_a_gpu_less_a_reserve():
    gpu, asked = torch.device("cuda", 1), []

    def free(device: torch.device) -> int:
        asked.append(device)
        return 40 << 30

    assert kv_cache.budget(gpu, free) == (40 << 30) - (1 << 30) - (4 << 30)
    assert asked == [gpu]
    assert kv_cache.budget(torch.device("cpu"), free) == kv_cache.BUDGET  # no GPU was asked
    assert asked == [gpu]


def test_a_full_gpu_still_computes_row_by_row(tiny_loaded):
    nothing = kv_cache.budget(torch.device("cuda"), lambda device: 0)
    assert nothing < 0
    assert kv_cache.rows_within(tiny_loaded[0], 10, 42, nothing) == 1


def test_rows_follow_from_the_budget(tiny_loaded):
    network = tiny_loaded[0]
    rows = [kv_cache.rows_within(network, 10, 42, budget) for budget in (1, 1 << 20, 1 << 24)]
    assert rows[0] == 1 < rows[1] < rows[2]
    assert kv_cache.rows_within(network, 10, 100, 1 << 24) < rows[2]
    longer = kv_cache.rows_within(network, 40, 42, 1 << 24)
    assert longer < rows[2]
    # The keys and values alone, counted on a real cache, stay inside the budget.
    cache = kv_cache.make(network, rows[1], 42)
    network(torch.zeros(rows[1], 10, dtype=torch.long), past_key_values=cache)
    held = sum(b.numel() * b.element_size() for layer in cache.layers for b in layer._buffers)
    assert held < 1 << 20
