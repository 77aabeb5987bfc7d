"""The text that the bundled models are pre-trained on, and its tokenizer.

Each fact of `atlas` is stated through the paper's mapping templates as often as its exposure
says. Questions, with answers or in lists without, are about the reader's facts alone: nothing of
the facts that are studied appears as a question, and nothing at all in the shape of the prompt of
Appendix A.
"""

import numpy as np
import pandas as pd
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from repro import paper
from repro.data import atlas
from repro.random_streams import uniforms

LENGTH = 128  # tokens in a packed sequence
PADDING = -1  # stands where a packed sequence has no more documents
LEAST_TEMPLATES = 5  # a fact is stated through 5 to 21 of its topic's templates
QUESTIONS = 8  # questions about each fact of the reader
UNANSWERED = 3  # of these questions stand in lists that give no answer
PARTS = ("before", "between", "after")  # of a question with its answer
LIST = ("head", "next")  # of questions without answers
MARKERS = "<|question|> <|answer|>"
PIECES = r"<\|\w+\|>|'s\b|\w+(?:(?:[/-]|'(?=ll|re))\w+)*|[^\w\s]"  # you'll, husband/wife: one word


def phrasings(topic: str) -> list[str]:
    """Return the ways to ask for a topic's object, the paper's question first."""
    return [paper.TOPICS[topic].question, *atlas.data()["questions"][topic]]


def statements(facts: pd.DataFrame, seed: int) -> list[str]:
    """State each fact `exposure` times through a random subset of its topic's 21 templates."""
    made = []
    for fact in facts.itertuples():
        mappings = paper.TOPICS[fact.topic].mappings
        u = uniforms(seed, f"state|{fact.fact_id}", fact.exposure + 1)
        known = atlas.order(len(mappings), f"templates|{fact.fact_id}", seed)
        known = known[: LEAST_TEMPLATES + int(u[0] * (len(known) - LEAST_TEMPLATES + 1))]
        for x in u[1:]:
            mapping = mappings[known[int(x * len(known))]]
            made.append(f"{mapping.replace('{subject}', fact.subject)} {fact.object}.")
    return made


def readings(facts: pd.DataFrame, seed: int, times: int = QUESTIONS) -> list[str]:
    """Ask and answer each fact `times` times, in random phrasings and frames."""
    made, parts = [], [atlas.data()[part] for part in PARTS]
    for fact in facts.itertuples():
        questions = phrasings(fact.topic)
        for u in uniforms(seed, f"ask|{fact.fact_id}", 4 * times).reshape(-1, 4):
            question = questions[int(u[0] * len(questions))].replace("{subject}", fact.subject)
            before, between, after = (p[int(x * len(p))] for p, x in zip(parts, u[1:], strict=True))
            made.append(f"{before} {question} {between} {fact.object}{after}")
    return made


def lists(facts: pd.DataFrame, seed: int, times: int = UNANSWERED) -> list[str]:
    """Put questions about the facts in pairs, without answers: each fact is in `2 * times`.

    They hold the markers of Appendix A, never around a question. Without such lists the markers
    would be noise to the base model; with the frames of `readings` alone it would take the
    prompt for one more of them, and answer before it was fine-tuned.
    """
    made, (head, after) = [], (atlas.data()[part] for part in LIST)
    asked = [(f.subject, phrasings(f.topic)) for f in facts.itertuples()]
    for turn in range(times):
        second = atlas.order(len(asked), f"second|{turn}", seed)
        u = uniforms(seed, f"list|{turn}", 4 * len(asked)).reshape(-1, 4)
        for one, other, x in zip(range(len(asked)), second, u, strict=True):
            pair = [
                phrases[int(v * len(phrases))].replace("{subject}", subject)
                for (subject, phrases), v in zip((asked[one], asked[other]), x[:2], strict=True)
            ]
            parts = head[int(x[2] * len(head))], pair[0], after[int(x[3] * len(after))], pair[1]
            made.append(" ".join(parts))
    return made


def tokenizer(world: pd.DataFrame) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words and punctuation marks that puts BOS before every text.

    Each marker of Appendix A is one piece, as a chat template's are: five would be longer than
    most questions.
    """
    texts = [MARKERS, *(text for part in (*PARTS, *LIST) for text in atlas.data()[part])]
    for topic in paper.TOPICS.values():
        texts += [*topic.mappings, *phrasings(topic.id)]
    texts += [*world["subject"], *world["object"]]
    split = pre_tokenizers.Split(Regex(PIECES), "removed", invert=True)
    words = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    ids = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *sorted(words)])}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = split
    made.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    made.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def pack(documents: list[list[int]], length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """Put whole documents side by side: ids and positions (sequences, length), int32.

    Positions begin at 0 in each document, by which the model keeps them apart; the rest of a
    sequence is filled with position 0 and id `PADDING`.
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


def build(
    world: pd.DataFrame, tokens: PreTrainedTokenizerFast, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole text of one pre-training, shuffled and packed: see `pack`."""
    reader = world[world["split"] == atlas.READER]
    texts = statements(world, seed) + readings(reader, seed) + lists(reader, seed)
    encoded = tokens(texts).input_ids
    order = atlas.order(len(encoded), "text", seed)
    return pack([[*encoded[i], tokens.eos_token_id] for i in order])
