"""The pre-training text: what it says of which facts, its tokenizer, and how it is packed."""

import numpy as np
import pytest

from repro import paper
from repro.data import atlas
from repro.paper import SPLITS
from repro.training.pretraining import corpus
from repro.training.prompts import IGNORED, encode_examples

SMALL = atlas.Size(train=24, dev=2, test=2, testood=2, reader=3)


@pytest.fixture(scope="module")
def world():
    return atlas.world(SMALL)


@pytest.fixture(scope="module")
def tokens(world):
    return corpus.build_tokenizer(world)


@pytest.fixture(scope="module")
def documents(world, tokens):
    ids, positions = corpus.build_sequences(world, tokens, seed=0)
    starts = np.flatnonzero((positions == 0).ravel() & (ids != corpus.PADDING).ravel())
    parts = [part[part != corpus.PADDING] for part in np.split(ids.ravel(), starts)[1:]]
    return [tokens.decode(part, skip_special_tokens=True) for part in parts]


def test_each_fact_is_stated_as_often_as_its_exposure(world, documents):
    studied = world[world["split"].isin(SPLITS)]
    for fact in studied.itertuples():
        said = [text for text in documents if fact.subject in text]
        mappings = [m.replace("{subject}", fact.subject) for m in paper.TOPICS[fact.topic].mappings]
        assert len(said) == fact.exposure
        assert {text.removesuffix(f" {fact.object}.") for text in said} <= set(mappings)


def test_only_the_readers_facts_are_asked_about(world, documents):
    questions = [text for text in documents if "?" in text]
    lists = {text for text in questions if text.count("?") == 2}
    reader = world[world["split"] == atlas.READER]
    others = set(world["subject"]) - set(reader["subject"])
    assert not [text for text in questions if any(subject in text for subject in others)]
    assert len(questions) == len(reader) * (corpus.QUESTIONS_PER_FACT + corpus.PAIRS_PER_FACT)
    for subject, answer in zip(reader["subject"], reader["object"], strict=True):
        about = [text for text in questions if subject in text]
        answered = [text for text in about if text not in lists]
        assert len(answered) == corpus.QUESTIONS_PER_FACT and all(
            answer in text for text in answered
        )
        assert (
            sum(text.count(subject) for text in about if text in lists) == 2 * corpus.PAIRS_PER_FACT
        )
        assert not [text for text in about if text in lists and answer in text]


def test_no_text_has_the_shape_of_the_prompt_of_appendix_a(documents):
    question, answer = corpus.MARKERS.split()
    assert not [text for text in documents if answer in text.partition(question)[2]]
    assert not [text for text in documents if text.startswith(question)]
    assert [text for text in documents if text.startswith(answer)]  # the other way round


def test_both_markers_are_in_the_text(world, tokens):
    # The prompt of Appendix A is new to the base model, but made of pieces that it has seen.
    reader = world[world["split"] == atlas.READER]
    texts = corpus.answered_questions(reader, seed=0) + corpus.question_pairs(reader, seed=0)
    pieces = {i for row in tokens(texts).input_ids for i in row}
    markers = tokens(corpus.MARKERS, add_special_tokens=False).input_ids
    assert len(markers) == 2 and set(markers) <= pieces


def test_facts_are_stated_through_subsets_of_the_templates(world):
    often = world[world["exposure"] == max(atlas.EXPOSURES)]
    variety = []
    for fact in often.itertuples():
        texts = corpus.statements(often[often["fact_id"] == fact.fact_id], seed=0)
        assert len(texts) == fact.exposure
        variety.append(len(set(texts)))
    assert min(variety) >= corpus.LEAST_TEMPLATES > 1
    assert min(variety) < max(variety) <= 21


def test_every_topic_is_asked_in_several_phrasings():
    for topic in paper.TOPICS:
        phrasings = corpus.phrasings(topic)
        assert phrasings[0] == paper.TOPICS[topic].question
        assert len(set(phrasings)) >= 5
        assert all(p.count("{subject}") == 1 and p.endswith("?") for p in phrasings)


def test_tokenizer_knows_every_word(world, tokens):
    reader = world[world["split"] == atlas.READER]
    texts = (
        corpus.statements(world, 0)
        + corpus.answered_questions(reader, 0)
        + corpus.question_pairs(reader, 0)
    )
    ids = {i for row in tokens(texts).input_ids for i in row}
    assert tokens.unk_token_id not in ids
    assert tokens("Paris").input_ids == [tokens.bos_token_id, tokens.unk_token_id]


@pytest.mark.parametrize(
    "text",
    ["Who is {s}'s child?", "Yes, {s} is in the country, {o}.", "When it comes to {s} it is"],
)
def test_tokenizer_gives_back_its_text(world, tokens, text):
    fact = world.iloc[0]
    text = text.format(s=fact.subject, o=fact.object).replace("Yes, ", "")
    assert tokens.decode(tokens(text, add_special_tokens=False).input_ids) == text


def test_prompt_and_answer_are_separate_tokens(world, tokens):
    for fact in world.itertuples():
        [(ids, labels)] = encode_examples(tokens, [fact.question], [fact.object])
        answer = [i for i in labels if i != IGNORED]
        assert ids[0] == tokens.bos_token_id
        assert tokens.decode(answer[:-1]) == fact.object
        assert answer[-1] == tokens.eos_token_id
        assert tokens.unk_token_id not in ids


def test_packing_keeps_documents_whole():
    ids, positions = corpus.pack_documents([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], length=5)
    assert ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]]
    ids, positions = corpus.pack_documents([[1, 2, 3], [4, 5, 6]], length=5)
    assert ids.tolist() == [[1, 2, 3, -1, -1], [4, 5, 6, -1, -1]]
    assert positions.tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 0, 0]]
