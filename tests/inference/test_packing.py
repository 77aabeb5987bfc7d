"""Texts packed into one row, against the same texts each alone."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.inference import packing

TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12)


@settings(deadline=None)  # the first call compiles
@given(TEXTS)
def test_every_text_is_in_the_row_and_each_beginning_once(texts):
    row, nodes = packing.pack(texts)
    ids, positions, sees = (value[0] for value in row.values())
    assert len(ids) == len({tuple(text[: at + 1]) for text in texts for at in range(len(text))})
    for text, nodes_of_text in zip(texts, nodes, strict=True):
        nodes_of_text = nodes_of_text[nodes_of_text >= 0]
        assert ids[nodes_of_text].tolist() == text and positions[nodes_of_text].tolist() == [
            *range(len(text))
        ]
        for at, node in enumerate(nodes_of_text):
            assert set(sees[0, node].nonzero()[:, 0].tolist()) == set(
                nodes_of_text[: at + 1].tolist()
            )


@settings(deadline=None)
@given(TEXTS, st.integers(1, 20))
def test_rows_hold_all_texts_and_no_more_nodes_than_asked(texts, most):
    rows = packing.groups(texts, most)
    assert sorted(i for part in rows for i in part) == list(range(len(texts)))
    sizes = [packing.pack([texts[i] for i in part])[0]["input_ids"].shape[1] for part in rows]
    assert all(n <= most or len(p) == 1 for n, p in zip(sizes, rows, strict=True))
    for part, after in pairwise(rows):  # none is begun while the one before has room
        longer = packing.pack([texts[i] for i in [*part, after[0]]])[0]["input_ids"]
        assert longer.shape[1] > most


def test_a_packed_text_has_its_own_logits(tiny_loaded):
    network = tiny_loaded[0]
    texts = [[2, 3, 4, 5], [2, 3, 9], [7], [2, 3, 4, 6, 8]]
    row, nodes = packing.pack(texts)
    with torch.no_grad():
        logits = network(**row).logits[0]
        for text, nodes_of_text in zip(texts, nodes, strict=True):
            expected = network(torch.tensor([text])).logits[0]
            torch.testing.assert_close(
                logits[nodes_of_text[nodes_of_text >= 0]], expected, rtol=1e-4, atol=1e-4
            )


def test_a_damaged_network_is_asked_again_when_it_is_whole(tiny_loaded):
    network, weight = tiny_loaded[0], tiny_loaded[0].model.norm.weight
    packing._FITTING.discard(network)
    before = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
        assert not packing.fits(network, 9)
        weight.copy_(before)
    assert packing.fits(network, 9)
