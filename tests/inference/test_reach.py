"""What a completion can still reach: a bound, against all sequences of small vocabularies."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoding import T, complete, prompts_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from repro.inference.decoding import contains
from repro.inference.reach import Reach
from repro.models.tokens import token_texts


def fewest(pieces: list[str], name: str, text: str, most: int) -> int:
    """Return the fewest tokens after a text that make it contain a name, up to most + 1."""
    for count in range(most + 1):
        if any(contains(text + "".join(some), (name,)) for some in product(pieces, repeat=count)):
            return count
    return most + 1


LETTERS = st.text("aAbBſ ’-", min_size=1, max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(LETTERS, min_size=1, max_size=4), st.text("ab '-s", min_size=1, max_size=6), LETTERS
)
def test_the_bound_is_exact_where_tokens_are_whole_characters(pieces, name, text):
    if contains(text, (name,)):
        return
    bound, most = Reach(pieces).needed((name,), text), 4
    assert min(bound, most + 1) <= fewest(pieces, name, text, most)
    pieces = sorted({*pieces, *name})  # now a token can begin at every character
    bound = Reach(pieces).needed((name,), text)
    assert min(bound, 4) == fewest(pieces, name, text, 3)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=4),
    st.sampled_from(["é", "ab", "aé", "éa", "sa", "ss", "k’a", "日a", "a日"]),
)
def test_with_parts_of_characters_it_is_never_above_what_some_sequence_needs(extra, name):
    parts = [*extra, *(name[:1].encode()[at : at + 1] for at in range(len(name[:1].encode())))]
    parts += ["ß".encode()[:1], "ß".encode()[1:] + b"a", "日".encode()[:2], name[-1:].encode()]
    bound = Reach([part.decode(errors="replace") for part in parts]).needed((name,), "x")
    for count in range(1, 4):
        for some in product(parts, repeat=count):
            if contains("x" + b"".join(some).decode(errors="replace"), (name,)):
                assert bound <= count, some
                return


def test_of_several_names_the_nearest_counts():
    reach = Reach(["Par", "is", " ", "R", "o", "me"])
    assert reach.needed(("Paris", "Rome"), "in ") == 2
    assert reach.needed(("Rome",), "in ") == 3
    assert reach.needed(("Rome",), "in ro") == 1
    assert reach.needed(("Paris", "Rome"), "in R") == 2
    assert reach.most(("Rome",)) == 3 and reach.most(()) == 0


def test_a_start_inside_a_token_and_an_end_past_it_count():
    reach = Reach(["The New", " Yorker", " York"])
    assert reach.needed(("New York",), "") == 2
    assert reach.needed(("w Yo",), "") == 2
    assert reach.needed(("he Ne",), "") == 1


@pytest.mark.parametrize("limit", [3, 6, 10])
@pytest.mark.parametrize("in_place", [True, False])
def test_no_hit_changes(tiny_loaded, limit, in_place):
    network, tokens = tiny_loaded
    plain = {"draws": 6, "temperature": 1.0, "in_place": in_place}
    said = complete(network, tokens, prompts_of(tokens), limit, **plain)
    # Names that some samples say, from the middle of a text on, and one that none can say.
    texts = [c.text for samples in said for c in samples if len(c.text) > 12]
    for names in [(text[4:12],) for text in texts[:4]] + [(texts[0][2:5], "Nowhere in the world")]:
        whole = complete(network, tokens, prompts_of(tokens, names), limit, **plain)
        short = complete(network, tokens, prompts_of(tokens, names), limit, hits_only=True, **plain)
        assert [[c.hit for c in s] for s in whole] == [[c.hit for c in s] for s in short]
        assert any(c.hit for s in whole for c in s)


def test_what_cannot_be_reached_is_not_computed(tiny_loaded):
    network, tokens = tiny_loaded
    prompts = prompts_of(tokens, ("Zz Qq Zz Qq Zz Qq",))
    whole, short = Counter(), Counter()
    for hits_only, work in ((False, whole), (True, short)):
        options = {"draws": 2, "temperature": T, "hits_only": hits_only}
        complete(network, tokens, prompts, 8, work, **options)
    assert short["unreachable"] > 0 == whole["unreachable"]
    assert short["computed"] < whole["computed"]


def byte_level(*merged: str) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.WordLevel({piece: i for i, piece in enumerate([*alphabet, *merged])}, "a")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_token_texts_of_a_byte_level_vocabulary():
    texts = token_texts(byte_level("Ġthe", "Ã©"))
    assert texts[-2:] == [" the", "é"] and "�" in texts and "a" in texts


def test_token_texts_of_metaspaces():
    model = models.WordLevel({"a": 0, "▁a": 1, "▁": 2, "b": 3, "▁the": 4}, "a")
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Metaspace()
    assert token_texts(PreTrainedTokenizerFast(tokenizer_object=tokenizer)) == [
        "a", " a", " ", "b", " the",
    ]  # fmt: skip


def test_no_texts_where_a_token_depends_on_its_neighbours():
    model = models.WordLevel({"a": 0, "##b": 1, "the": 2}, "a")
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.CTC(pad_token="the")  # joins equal neighbours
    assert token_texts(PreTrainedTokenizerFast(tokenizer_object=tokenizer)) is None
