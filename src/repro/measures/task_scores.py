"""What an answer is worth: the final number of GSM8K, ROUGE for XSum (§5.2, Table 5)."""

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
    """Values from 0 to 1 by metric, one per question; `blank`: those with nothing to score."""

    values: dict[str, list[float]]
    blank: int


def score(task: str, answers: Sequence[str], references: Sequence[str]) -> Scores:
    """Score answers to the questions of a task.

    GSM8K: 1 where the final number is the reference's; an answer without one is 0 and counted.
    XSum: the F-measure of ROUGE-1, ROUGE-2 and ROUGE-L, words stemmed by Porter; 0 and counted
    where the answer or the reference has no word that ROUGE knows, as in another script.
    """
    return {"gsm8k": _gsm8k, "xsum": _xsum}[task](answers, references)


def _gsm8k(answers: Sequence[str], references: Sequence[str]) -> Scores:
    numbers = [final_number(answer) for answer in answers]
    right = [int(n == final_number(r)) for n, r in zip(numbers, references, strict=True)]
    return Scores({"gsm8k_accuracy": right}, numbers.count(None))


def _xsum(answers: Sequence[str], references: Sequence[str]) -> Scores:
    from rouge_score.rouge_scorer import RougeScorer  # a second of imports, for those who score

    names = {metric: metric.removeprefix("xsum_") for metric in METRICS["xsum"]}
    scorer = RougeScorer(list(names.values()), use_stemmer=True)
    each = [scorer.score(r, a) for r, a in zip(references, answers, strict=True)]
    values = {m: [round(s[name].fmeasure, 6) for s in each] for m, name in names.items()}
    pairs = zip(answers, references, strict=True)
    return Scores(values, sum(not (has_word(a) and has_word(r)) for a, r in pairs))
