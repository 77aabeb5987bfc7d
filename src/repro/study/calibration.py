"""Measures the speed of this machine at each kind of work of a study, on small samples."""

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

MASTERY_TOKENS = 6_000  # tokens generated to time mastery and to estimate the levels
QUESTIONS = 256  # questions answered to time evaluation
STEPS = 5  # steps of fine-tuning that are timed, besides a first one
SCORED = 96  # facts scored: about two rows for each of two threads
SHARE = 10.0  # percent of the parameters that are restored and set back


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine for one piece of each kind of work.

    Attributes:
        scored: to score a fact (0 if the profile does not choose facts by score).
        fact: to measure the mastery of a fact.
        tuning, sample: to begin and end a fine-tuning; for each of its samples.
        question, token: to read a question; for each token of its answer.
        ranking: to rank the parameters.
        restoring: to restore a share and set it back.
        answer: not seconds, but the number of tokens of a typical answer.
        levels: the shares of facts by mastery level, in a sample.
        small: whether the model is small, so that it was timed on one thread and several processes
            will share the work.
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
    small: bool


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
    candidates = computation.facts
    if candidates is None:  # the facts to measure are unknown before candidates are scored
        candidates, _ = study.choice.to_score()
    pool = candidates[candidates["split"] == "train"]
    protocol = study.profile.protocol(study.seed)
    tokens = protocol.trials * protocol.max_new_tokens
    few = facts.sample(pool, min(max(1, MASTERY_TOKENS // tokens), len(pool)), 0)
    session.reset()
    # The first fact is not timed, because kernels are compiled and memory is allocated then.
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

    once(size)  # untimed: the first fine-tuning of a process also allocates its memory
    short, long = once(size), once(number)
    sample = max(long - short, 0) / max(number - size, 1)
    return max(short - size * sample, 0), sample


def _restoration(session: Session, rate: float, pool: pd.DataFrame) -> tuple[float, float]:
    """Return the seconds of a ranking, and those to restore a share and set it back."""
    recipe = Recipe(learning_rate=rate)
    few = facts.sample(pool, min(recipe.batch_size, len(pool)), 0)
    _, tuned = session.finetune(few, recipe, "calibrating")
    pair = session.compare(tuned, [SHARE])
    restore.rank(pair.base, pair.tuned)  # untimed: the kernels are compiled now
    ranking = _seconds(lambda: restore.concentration(pair.ranking(), [1.0, 5.0]))

    def restore_once() -> None:
        with pair.restored(session.decoder, {"percent": SHARE, "strategy": "top"}):
            pass

    restore_once()  # untimed: it finds the thresholds, once for all shares of a run
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
