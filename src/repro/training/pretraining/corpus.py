"""The text on which the bundled models are pre-trained, and its tokenizer.

The text states each fact of `atlas` in the paper's mapping templates, `exposure` times. It also has
questions, with answers or in pairs without answers, about the facts of the split `READER` only. No
fact that is studied appears as a question, and no text has the form of the prompt of Appendix A.
"""

import numpy as np
import pandas as pd
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from repro import paper
from repro.data import atlas
from repro.random_streams import uniforms

LENGTH = 128  # tokens in a packed sequence
PADDING = -1  # id of the free positions of a packed sequence
LEAST_TEMPLATES = 5  # a fact is stated in 5 to 21 of its topic's templates
QUESTIONS_PER_FACT = 8  # answered questions about each fact of the split `READER`
PAIRS_PER_FACT = 3  # pairs of questions without answers whose first question is about such a fact
QUESTION_PARTS = ("before", "between", "after")  # texts around a question and its answer
PAIR_PARTS = ("head", "next")  # texts before the questions of a pair without answers
MARKERS = "<|question|> <|answer|>"
PIECES = r"<\|\w+\|>|'s\b|\w+(?:(?:[/-]|'(?=ll|re))\w+)*|[^\w\s]"  # you'll, husband/wife: one word


def phrasings(topic: str) -> list[str]:
    """Return the ways to ask for a topic's object, the paper's question first."""
    return [paper.TOPICS[topic].question, *atlas.data()["questions"][topic]]


def statements(facts: pd.DataFrame, seed: int) -> list[str]:
    """Return statements of facts: each `exposure` times, in random templates of its topic."""
    texts = []
    for fact in facts.itertuples():
        mappings = paper.TOPICS[fact.topic].mappings
        u = uniforms(seed, f"state|{fact.fact_id}", fact.exposure + 1)
        subset = atlas.order(len(mappings), f"templates|{fact.fact_id}", seed)
        subset = subset[: LEAST_TEMPLATES + int(u[0] * (len(subset) - LEAST_TEMPLATES + 1))]
        for x in u[1:]:
            mapping = mappings[subset[int(x * len(subset))]]
            texts.append(f"{mapping.replace('{subject}', fact.subject)} {fact.object}.")
    return texts


def answered_questions(
    facts: pd.DataFrame, seed: int, times: int = QUESTIONS_PER_FACT
) -> list[str]:
    """Return questions with answers about facts: `times` each, in random phrasings and frames."""
    texts, parts = [], [atlas.data()[part] for part in QUESTION_PARTS]
    for fact in facts.itertuples():
        questions = phrasings(fact.topic)
        for u in uniforms(seed, f"ask|{fact.fact_id}", 4 * times).reshape(-1, 4):
            question = questions[int(u[0] * len(questions))].replace("{subject}", fact.subject)
            before, between, after = (p[int(x * len(p))] for p, x in zip(parts, u[1:], strict=True))
            texts.append(f"{before} {question} {between} {fact.object}{after}")
    return texts


def question_pairs(facts: pd.DataFrame, seed: int, times: int = PAIRS_PER_FACT) -> list[str]:
    """Return pairs of questions without answers; each fact is in `2 * times` pairs.

    The pairs contain the markers of Appendix A, but never around a question. Without such pairs the
    base model would not know the markers. With `answered_questions` alone, it would read the prompt
    of Appendix A as one of these questions, and answer before it was fine-tuned.
    """
    texts, (heads, links) = [], (atlas.data()[part] for part in PAIR_PARTS)
    questions = [(f.subject, phrasings(f.topic)) for f in facts.itertuples()]
    for repetition in range(times):
        partners = atlas.order(len(questions), f"second|{repetition}", seed)
        u = uniforms(seed, f"list|{repetition}", 4 * len(questions)).reshape(-1, 4)
        for first, second, x in zip(range(len(questions)), partners, u, strict=True):
            pair = [
                phrases[int(v * len(phrases))].replace("{subject}", subject)
                for (subject, phrases), v in zip(
                    (questions[first], questions[second]), x[:2], strict=True
                )
            ]
            head, link = heads[int(x[2] * len(heads))], links[int(x[3] * len(links))]
            texts.append(" ".join((head, pair[0], link, pair[1])))
    return texts


def build_tokenizer(world: pd.DataFrame) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words and punctuation marks that puts BOS before every text.

    Each marker of Appendix A is one token, as the markers of a chat template are. Split into
    its five pieces, it would be longer than most questions.
    """
    texts = [
        MARKERS,
        *(text for part in (*QUESTION_PARTS, *PAIR_PARTS) for text in atlas.data()[part]),
    ]
    for topic in paper.TOPICS.values():
        texts += [*topic.mappings, *phrasings(topic.id)]
    texts += [*world["subject"], *world["object"]]
    split = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True)
    words = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    ids = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *sorted(words)])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = split
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def pack_documents(
    documents: list[list[int]], length: int = LENGTH
) -> tuple[np.ndarray, np.ndarray]:
    """Return whole documents packed into sequences: ids and positions, int32 (sequences, length).

    Positions begin at 0 in each document, so that the model separates them. The rest of a sequence
    has position 0 and id `PADDING`.
    """
    rows, room = [], 0
    for document in documents:
        if len(document) > room:
            rows.append(([], []))
            room = length
        rows[-1][0].extend(document)
        rows[-1][1].extend(range(len(document)))
        room -= len(document)
    ids = np.full((len(rows), length), PADDING, np.int32)
    positions = np.zeros((len(rows), length), np.int32)
    for place, (row_ids, row_positions) in enumerate(rows):
        ids[place, : len(row_ids)] = row_ids
        positions[place, : len(row_positions)] = row_positions
    return ids, positions


def build_sequences(
    world: pd.DataFrame, tokens: PreTrainedTokenizerFast, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole text of one pre-training, shuffled and packed: see `pack_documents`."""
    reader = world[world["split"] == atlas.READER]
    texts = statements(world, seed)
    texts += answered_questions(reader, seed) + question_pairs(reader, seed)
    encoded = tokens(texts).input_ids
    order = atlas.order(len(encoded), "text", seed)
    return pack_documents([[*encoded[i], tokens.eos_token_id] for i in order])
