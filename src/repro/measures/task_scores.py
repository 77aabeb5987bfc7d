"""Scores of answers: by the final number for GSM8K, by ROUGE for XSum (§5.2, Table 5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from repro.data.gsm8k import final_number
from repro.data.xsum import has_word

METRICS = {
    "gsm8k": ("gsm8k_accuracy",),
    "xsum": ("xsum_rouge1", "xsum_rouge2", "xsum_rougeL"),
}
VERSION = 2  # part of the key of every score: raised when a change to the rules changes results


@dataclass(frozen=True)
class Scores:
    """Scores of answers.

    Attributes:
        values: numbers from 0 to 1 by metric, one per question.
        blank: the number of questions that count 0 because there is nothing to score.
    """

    values: dict[str, list[float]]
    blank: int


def score(task: str, answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Score answers to the questions of a task.

    GSM8K: 1 if the final number of the answer is that of the reference, else 0; an answer without
    a number counts as blank. XSum: the F-measure of ROUGE-1, ROUGE-2 and ROUGE-L, with words
    stemmed by Porter; blank if the answer or the reference has no word that ROUGE knows, such as a
    text in another script.
    """
    return {"gsm8k": _gsm8k, "xsum": _xsum}[task](answers, references)


def _gsm8k(answers: Sequence[str], references: Sequence[str]) -> Scores:
    numbers = [final_number(answer) for answer in answers]
    right = [int(n == final_number(r)) for n, r in zip(numbers, references, strict=True)]
    return Scores({"gsm8k_accuracy": right}, numbers.count(None))


def _xsum(answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Score summaries by the F-measures of ROUGE, rounded to six digits."""
    from rouge_score.rouge_scorer import RougeScorer  # a second of imports, for those who score

    names = {metric: metric.removeprefix("xsum_") for metric in METRICS["xsum"]}
    scorer = RougeScorer(list(names.values()), use_stemmer=True)
    scores = [scorer.score(r, a) for r, a in zip(references, answers, strict=True)]
    values = {
        metric: [round(rouge[name].fmeasure, 6) for rouge in scores]
        for metric, name in names.items()
    }
    pairs = zip(answers, references, strict=True)
    return Scores(values, sum(not (has_word(a) and has_word(r)) for a, r in pairs))
