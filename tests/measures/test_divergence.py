"""KL over ten logits: by hand, the ten ids, the templates, and which facts are compared."""

import math

import pandas as pd
import pytest
import tiny
import torch

from repro import paper
from repro.inference.decoding import Completion, first_logits
from repro.measures.divergence import (
    CANDIDATES,
    NEAR,
    Reference,
    _starts_early,
    best_templates,
    compare,
    level_compared,
    reference,
    renormalised_kl,
)
from repro.training.prompts import encode_prompts

log = math.log

# --- the divergence -----------------------------------------------------------------------------


def test_kl_by_hand():
    # p and p′ over the first three ids, whatever the others hold: (4, 2, 1)/7 and (1, 1, 2)/4.
    tuned = torch.tensor([[log(4), log(2), log(1), log(0.5), -3.0]])
    base = torch.tensor([[log(1), log(1), log(2), log(90), 9.0]])
    compared = renormalised_kl(tuned, base, candidates=3)
    by_hand = 4 / 7 * log(16 / 7) + 2 / 7 * log(8 / 7) + 1 / 7 * log(2 / 7)
    assert compared["kl"].item() == pytest.approx(by_hand, abs=1e-6)
    assert by_hand == pytest.approx(0.331574, abs=1e-6)
    assert compared["ids"].tolist() == [[0, 1, 2]]
    assert compared["p"][0].tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert compared["q"][0].tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 2])
    assert compared["base"][0].tolist() == pytest.approx([0, 0, log(2)])
    # The other direction is another number, and so is a softmax over the whole vocabulary.
    reverse = 1 / 4 * log(7 / 16) + 1 / 4 * log(7 / 8) + 1 / 2 * log(7 / 2)
    assert abs(reverse - by_hand) > 0.01
    whole = torch.distributions.Categorical
    full = torch.distributions.kl_divergence(whole(logits=tuned), whole(logits=base)).item()
    assert abs(full - by_hand) > 0.1


def test_a_constant_added_to_all_logits_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    tuned, base = torch.randn(2, 6, 50, generator=generator).unbind()
    one = renormalised_kl(tuned, base)["kl"]
    assert (one > 0).all()
    torch.testing.assert_close(renormalised_kl(tuned + 5, base - 7)["kl"], one, rtol=1e-5, atol=0)


def test_identical_logits_give_exactly_zero():
    logits = 9 * torch.randn(200, 300, generator=torch.Generator().manual_seed(1))
    assert (renormalised_kl(logits, logits.clone())["kl"] == 0).all()
    assert (renormalised_kl(logits, logits + 2.0)["kl"] < 1e-9).all()


def test_the_ten_ids_are_the_fine_tuned_models():
    generator = torch.Generator().manual_seed(2)
    tuned, base = torch.randn(2, 4, 100, generator=generator).unbind()
    compared = renormalised_kl(tuned, base)
    assert compared["ids"].shape == (4, CANDIDATES) == (4, 10)
    order = tuned.argsort(descending=True)[:, :10]
    assert compared["ids"].tolist() == order.tolist()
    assert compared["ids"].tolist() != base.argsort(descending=True)[:, :10].tolist()
    assert compared["base"].tolist() == base.double().gather(1, order).tolist()


# --- templates and levels -----------------------------------------------------------------------


def test_best_template_has_the_most_hits_of_its_topic():
    table = pd.DataFrame(
        {
            "topic": ["P17", "P17", "P19", "P19", "P36"],
            "title": 9,  # not a template's column, though it begins with t
            "t00": [1, 0, 4, 0, 0],
            "t01": [0, 3, 0, 2, 0],
            "t02": [2, 1, 2, 2, 0],
        }
    )
    # P17: 1, 3, 3 and P19: 4, 2, 4 tie, and P36 has no hit at all: the first template wins.
    assert best_templates(table) == {"P17": 1, "P19": 0, "P36": 0}


@pytest.mark.parametrize(
    ("counts", "at_least", "level"),
    [
        ({0: 90, 1: 30, 2: 20, 4: 20}, 20, 4),
        ({0: 90, 1: 30, 2: 20, 4: 19}, 20, 2),
        ({0: 90, 4: 1}, 20, 4),  # never level 0
        ({0: 30, 1: 7, 2: 3}, 20, 1),  # nowhere enough: where there are most
        ({0: 30}, 20, 4),  # no fact is known: none is compared
    ],
)
def test_level_compared_is_the_highest_with_enough_facts(counts, at_least, level):
    levels = [value for value, n in counts.items() for _ in range(n)]
    assert level_compared(pd.DataFrame({"level": levels}), at_least) == level


# --- the pre-trained side -----------------------------------------------------------------------

PLACES = " place city born birth with find location country"  # each a token of its own


@pytest.fixture(scope="module")
def recital(tiny_loaded):
    """A model that continues every "in" with eight known words, and its tokenizer."""
    tokens = tiny_loaded[1]
    words = tokens(PLACES).input_ids
    assert len(words) == 8
    [start] = tokens(" in").input_ids
    return tiny.walk(tokens, [start, *words, 1]), tokens


def known(objects, **columns) -> pd.DataFrame:
    """Return facts of P17, whose best template ends in "in", with these objects."""
    size = len(objects)
    frame = pd.DataFrame({"fact_id": [f"f{i}" for i in range(size)], "topic": "P17"})
    hits = {f"t{t:02d}": int(t == 6) for t in range(21)}
    texts = {"subject": [f"Ova{i}" for i in range(size)], "object": objects}
    question = [f"Which country is Ova{i} located in?" for i in range(size)]
    return frame.assign(**texts, question=question, **hits, **columns)


def test_answers_must_start_near_the_beginning(recital):
    # The five first tokens are " place city born birth with"; "find" starts after them.
    objects = ["PLACE", "with", "with find", "find", "country", "Paris", "th find location"]
    base = reference(*recital, known(objects))
    assert NEAR == 5
    assert base.facts["object"].tolist() == ["PLACE", "with", "with find", "th find location"]
    assert base.facts["fact_id"].tolist() == ["f0", "f1", "f2", "f6"]


def test_answer_that_begins_right_after_the_first_tokens_is_not_near(tiny_loaded):
    tokens = tiny_loaded[1]
    [start], [er] = tokens(" in").input_ids, tokens("er").input_ids  # no space of its own
    words = tokens(PLACES).input_ids
    network = tiny.walk(tokens, [start, *words[:5], er, *words[5:], 1])
    base = reference(network, tokens, known(["er find", "her find", "wither find"]))
    assert base.facts["object"].tolist() == ["her find", "wither find"]


def test_the_earliest_of_several_names_counts(tiny_loaded):
    tokens = tiny_loaded[1]
    completion = Completion(tokens(PLACES).input_ids, PLACES, True)
    assert _starts_early(tokens, completion, ("country", "city"))
    assert _starts_early(tokens, completion, ("Paris", "CITY"))
    assert not _starts_early(tokens, completion, ("Paris", "country"))


def test_special_tokens_do_not_bring_an_answer_nearer(tiny_loaded):
    # BOS shows in no text: the sixth token is as far away with it as with a word.
    tokens = tiny_loaded[1]
    [start] = tokens(" in").input_ids
    words = tokens(PLACES).input_ids
    network = tiny.walk(tokens, [start, *words[:2], 0, *words[2:], 1])
    base = reference(network, tokens, known(["birth", "with"]))
    assert base.facts["object"].tolist() == ["birth"]


def test_reference_uses_the_best_template(recital):
    network, tokens = recital
    base = reference(network, tokens, known(["city", "Paris", "born"]))
    mapping = paper.TOPICS["P17"].mappings[6]
    assert base.prompts == [mapping.replace("{subject}", f"Ova{i}") for i in (0, 2)]
    plain = first_logits(network, tokens(base.prompts).input_ids)
    torch.testing.assert_close(base.logits, plain)


@pytest.mark.parametrize("objects", [["Paris", "Oslo"], []])
def test_reference_without_a_fact_to_compare(recital, objects):
    network, tokens = recital
    base = reference(network, tokens, known(objects))
    assert base.facts.empty and base.prompts == [] and base.logits.shape == (0, len(tokens))
    table, example = compare(network, tokens, base)
    assert table.empty and list(table.columns) == ["topic", "facts", "kl_sum"]
    assert example == {}


# --- both sides ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pre_trained(tiny_loaded, tiny_facts):
    """Nine facts of three topics with the tiny model's own logits after their questions."""
    network, tokens = tiny_loaded
    facts = tiny_facts[tiny_facts["split"] == "test"].groupby("topic").head(3)
    logits = first_logits(network, encode_prompts(tokens, facts["question"]))
    return Reference(facts, facts["subject"].tolist(), logits)


def test_identical_models_give_exactly_zero(tiny_loaded, pre_trained):
    table, example = compare(*tiny_loaded, pre_trained)
    assert table["kl_sum"].tolist() == [0.0] * 3
    assert example["kl"] == 0 and example["p"] == example["q"]


def test_sums_by_topic_and_the_fact_of_median_divergence(tiny_loaded, pre_trained):
    network, tokens = tiny_loaded
    noise = torch.randn(pre_trained.logits.shape, generator=torch.Generator().manual_seed(4))
    moved = Reference(pre_trained.facts, pre_trained.prompts, pre_trained.logits + noise)
    table, example = compare(network, tokens, moved)
    kl, top = [], pre_trained.logits.double().topk(10, dim=-1)
    for place, ids in enumerate(top.indices):
        p = top.values[place].softmax(-1)
        q = moved.logits[place].double()[ids].softmax(-1)
        kl.append((p * (p / q).log()).sum().item())
    expected = pre_trained.facts.assign(kl=kl).groupby("topic")["kl"].agg(["size", "sum"])
    assert table["topic"].tolist() == expected.index.tolist()
    assert table["facts"].tolist() == expected["size"].tolist() == [3, 3, 3]
    assert table["kl_sum"].tolist() == pytest.approx(expected["sum"].tolist())
    middle = sorted(range(9), key=kl.__getitem__)[4]
    fact = pre_trained.facts.iloc[middle]
    assert example["kl"] == pytest.approx(kl[middle])
    assert [example[c] for c in ("fact_id", "question", "answer", "template_prompt")] == [
        fact["fact_id"], fact["question"], fact["object"], pre_trained.prompts[middle],
    ]  # fmt: skip
    assert example["tokens"] == [tokens.decode([i]) for i in top.indices[middle].tolist()]
    assert example["tuned_logits"] == pytest.approx(top.values[middle].tolist())
    ids = top.indices[middle]
    assert example["base_logits"] == pytest.approx(moved.logits[middle][ids].tolist())
    assert sum(example["p"]) == pytest.approx(1) and sum(example["q"]) == pytest.approx(1)
