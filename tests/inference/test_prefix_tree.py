"""The prefix tree of some texts: one node for each distinct prefix."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.inference.cpu.prefix_tree import PrefixTree, longest_text, merge_prefixes


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), max_size=12))
def test_a_tree_has_a_node_for_each_distinct_beginning(texts):
    tokens, parents, rows = merge_prefixes(texts)
    assert len(tokens) == len({tuple(ids[:n]) for ids in texts for n in range(1, len(ids) + 1)})
    assert (parents < np.arange(len(parents))).all()
    for ids, row in zip(texts, rows, strict=True):
        nodes = row[: len(ids)]
        assert tokens[nodes].tolist() == ids
        assert parents[nodes].tolist() == [-1, *nodes[:-1]]
        assert (row[len(ids) :] == -1).all()


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=12))
def test_a_path_holds_the_nodes_of_a_prefix(texts):
    tokens, parents, rows = merge_prefixes(texts)
    assert longest_text(parents) == max(map(len, texts))
    tree = PrefixTree(max(map(len, texts)), capacity=2)
    for start in range(0, len(parents), 3):  # added in parts, so that the capacity grows
        added = tree.add(parents[start : start + 3])
        assert added.tolist() == [*range(start, min(start + 3, len(parents)))]
    for ids, row in zip(texts, rows, strict=True):
        for length, node in enumerate(row[: len(ids)], 1):
            assert tree.depth[node] == length - 1
            assert tokens[tree.path[node, :length]].tolist() == ids[:length]
