"""How fast this machine is at each kind of work of a study, measured on a little of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from repro.data import facts
from repro.measures import accuracy, mastery, scores
from repro.restoration import restore
from repro.study.compute import FactComputation
from repro.study.session import Session
from repro.study.study import Study
from repro.training.prompts import IGNORED, encode_examples
from repro.training.recipe import Recipe

MASTERY_TOKENS = 6_000  # tokens generated to time mastery, and to guess at the levels
QUESTIONS = 256  # answered to time evaluation
STEPS = 5  # of fine-tuning, beside a first one
SCORED = 96  # facts scored: about two rows for each of two threads
SHARE = 10.0  # percent restored and taken back


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine for one of each kind of work.

    A fact scored, where the profile chooses facts by score; a fact mastered; a fine-tuning begun,
    and each of its samples; a question read, and each token of its answer; a ranking; a share
    restored and taken back. `answer` is the length of a typical answer, in tokens; `levels` the
    shares of the facts by mastery level, in a sample.
    """

    scored: float
    fact: float
    tuning: float
    sample: float
    question: float
    token: float
    ranking: float
    restoring: float
    answer: float
    levels: dict[int, float]
    small: bool  # measured on one thread, where several processes will share the work


def calibrate(study: Study) -> Speed:
    """Time a little of each kind of work with the study's own model and settings.

    Raises:
        ReproError: the model or the facts are not available.
    """
    computation: FactComputation = study.computation
    computation.load()
    with computation.sharing([], 1):  # as many threads as a study of this model uses
        return _calibrate(study, computation)


def _calibrate(study: Study, computation: FactComputation) -> Speed:
    """Time mastery, then fine-tuning, ranking, restoration and answering on a fine-tuned model."""
    session = computation.session
    known = computation.facts
    if known is None:  # which facts are measured is not known before the candidates are scored
        known, _ = study.choice.to_score()
    pool = known[known["split"] == "train"]
    protocol = study.profile.protocol(study.seed)
    tokens = protocol.trials * protocol.max_new_tokens
    few = facts.sample(pool, min(max(1, MASTERY_TOKENS // tokens), len(pool)), 0)
    session.reset()
    # The first fact is not timed: kernels are compiled and memory is found then.
    mastery.measure(session.reader, session.tokenizer, few[:1], protocol)
    start = time.perf_counter()
    levels = mastery.measure(session.reader, session.tokenizer, few, protocol)["level"]
    mastered = time.perf_counter() - start
    tuning, sample = _finetuning(session, study.model.learning_rate, pool)
    ranking, restoring = _restoration(session, study.model.learning_rate, pool)
    session.reset()  # the pre-trained model answers at length, so that its tokens can be timed
    question, token = _answering(session, pool)
    scored = _scoring(session, study.choice.protocol, pool) if study.choice else 0.0
    return Speed(
        *(scored, mastered / len(few), tuning, sample, question, token, ranking, restoring),
        answer=_answer_length(session, few),
        levels=levels.value_counts(normalize=True).to_dict(),
        small=session.small,
    )


def _scoring(session: Session, protocol: scores.ScoreProtocol, pool: pd.DataFrame) -> float:
    """Return the seconds to score a fact."""
    few = facts.sample(pool, min(SCORED, len(pool)), 0)
    measure = partial(scores.measure, session.reader, session.tokenizer)
    measure(few[:1], protocol)  # untimed: kernels are compiled
    return _seconds(lambda: measure(few, protocol)) / len(few)


def _answer_length(session: Session, few: pd.DataFrame) -> float:
    examples = encode_examples(session.tokenizer, few["question"], few["object"])
    return sum(len(labels) - labels.count(IGNORED) for _, labels in examples) / len(few)


def _finetuning(session: Session, rate: float, pool: pd.DataFrame) -> tuple[float, float]:
    """Return the seconds to begin and end a fine-tuning, and those of each sample."""
    recipe = Recipe(learning_rate=rate)
    size = min(recipe.batch_size, len(pool))
    number = min(size * (1 + STEPS), len(pool))

    def once(count: int) -> float:
        few = facts.sample(pool, count, 0)
        return _seconds(lambda: session.finetune(few, recipe, "calibrating"))

    once(size)  # the first of a process also finds its memory
    short, long = once(size), once(number)
    sample = max(long - short, 0) / max(number - size, 1)
    return max(short - size * sample, 0), sample


def _restoration(session: Session, rate: float, pool: pd.DataFrame) -> tuple[float, float]:
    """Return the seconds of a ranking, and those to restore a share and take it back."""
    recipe = Recipe(learning_rate=rate)
    few = facts.sample(pool, min(recipe.batch_size, len(pool)), 0)
    _, tuned = session.finetune(few, recipe, "calibrating")
    pair = session.compare(tuned, [SHARE])
    restore.rank(pair.base, pair.tuned)  # untimed: the kernels are compiled now
    ranking = _seconds(lambda: restore.concentration(pair.ranking(), [1.0, 5.0]))

    def restore_once() -> None:
        with pair.restored(session.decoder, {"percent": SHARE, "strategy": "top"}):
            pass

    restore_once()  # untimed: it searches the threshold, and one search serves a run's shares
    return ranking, _seconds(restore_once)


def _answering(session: Session, pool: pd.DataFrame) -> tuple[float, float]:
    """Return the seconds to read a question, and those of each token of an answer after it."""
    few = facts.sample(pool, min(QUESTIONS, len(pool)), 0).assign(object="\0")  # never found

    def up_to(tokens: int) -> float:
        options = {"max_new_tokens": tokens}
        return _seconds(lambda: accuracy.answer(session.reader, session.tokenizer, few, **options))

    short, long = up_to(1), up_to(5)
    return short / len(few), max(long - short, 0) / 4 / len(few)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
