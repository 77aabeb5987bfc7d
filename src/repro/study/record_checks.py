"""Checks that the content of a record is possible: its counts fit its questions and each other.

A digest shows that a record is still what was written. These checks show that it was right when it
was written, and they also work for old records without a digest.
"""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import pandas as pd

from repro import paper
from repro.errors import StoreError
from repro.measures import accuracy, mastery

FACT_COLUMNS = ["fact_id", "topic", "split"]  # before the hits by template in a mastery table


def check(kind: str, params: dict, result: dict, provenance: dict) -> None:
    """Check that a record's parts have the right types and its numbers are possible.

    Raises:
        ValueError: they are not; the message says what is wrong.
    """
    for name, part in (("params", params), ("result", result), ("provenance", provenance)):
        _require(isinstance(part, dict), f"its {name} is not an object")
    _require(isinstance(provenance.get("date"), str), "its provenance has no date")
    if kind in CHECKS:
        try:
            CHECKS[kind](params, result)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"its result is not one of {kind} ({error!r})") from error


def check_asked(result: dict, number: int) -> None:
    """Check that a record holds answers to `number` questions.

    Raises:
        ValueError: it holds another number of answers.
    """
    counts = result.get("counts")
    total = result["total"] if counts is None else sum(row["total"] for row in counts)
    _require(total == number, f"it holds {total} answers, but {number} questions were asked")


def read_mastery_table(content: bytes, params: dict, result: dict) -> pd.DataFrame:
    """Return a mastery table from the bytes of its CSV, after checking every fact and count.

    Raises:
        ValueError: columns, numbers of facts, or counts do not fit the record.
    """
    templates, draws = params["protocol"]["templates"], params["protocol"]["draws"]
    table = pd.read_csv(BytesIO(content))
    columns = [f"t{place:02d}" for place in range(templates)]
    _require(list(table) == FACT_COLUMNS + columns, "it has other columns than its record")
    hits = table[columns]
    _require(all(hits.dtypes == "int64"), "its counts are not whole numbers")
    _require(bool(((hits >= 0) & (hits <= draws)).all(axis=None)), f"a count is not 0 to {draws}")
    _require(not table[FACT_COLUMNS].isna().any(axis=None), "a fact has no id, topic or split")
    _require(not table["fact_id"].duplicated().any(), "it holds a fact twice")
    _check_splits(table["split"].value_counts().to_dict(), params["facts"])
    levels = mastery.add_levels(table, templates * draws)
    counted = mastery.distribution(levels, paper.SPLITS).to_dict("records")
    _require(counted == result["counts"], "its facts by level are not those of its record")
    return table


def read_score_table(content: bytes, params: dict, result: dict) -> pd.DataFrame:
    """Return a table of scores from the bytes of its CSV, after checking every fact and number.

    Raises:
        ValueError: columns, numbers of facts, or scores do not fit the record.
    """
    table = pd.read_csv(BytesIO(content))
    columns = [f"t{place:02d}" for place in params["protocol"]["templates"]]
    _require(list(table) == FACT_COLUMNS + columns, "it has other columns than its record")
    _require(not table.isna().any(axis=None), "a fact lacks its id, topic, split or score")
    _require(not table["fact_id"].duplicated().any(), "it holds a fact twice")
    _require(bool((table[columns] <= 0).all(axis=None)), "a log-probability is above 0")
    _check_splits(table["split"].value_counts().to_dict(), params["candidates"])
    for (split, topic), number in table.groupby(["split", "topic"]).size().items():
        population = result["population"][split].get(topic, 0)
        _require(
            number <= population,
            f"it scores {number} facts of {topic}, where there are {population}",
        )
    return table


# kind of record → function of (bytes of the CSV, parameters, result) → its table, checked
TABLES: dict[str, Callable[[bytes, dict, dict], pd.DataFrame]] = {
    "mastery": read_mastery_table,
    "score": read_score_table,
}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _is_count(value: Any, most: float = float("inf")) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _check_splits(numbers: dict[str, int], facts: dict[str, int | str | list[int]]) -> None:
    """Check the number of facts of each split.

    For `all`, any number of facts is right. For a list, the numbers of facts by score band, there
    may be fewer facts, because a band may have too few.
    """
    _require(set(numbers) <= set(paper.SPLITS), "it names a split that does not exist")
    for split, needed in facts.items():
        number = numbers.get(split, 0)
        fits = number == needed if _is_count(needed) else number > 0
        if isinstance(needed, list):
            fits = 0 < number <= sum(needed)
        _require(fits, f"it holds {number} facts of split {split}, not {needed}")


def _check_answers(params: dict, result: dict) -> None:
    """Check `accuracy` and `instruct`: the numbers of answers and of correct answers."""
    if "counts" in result:  # old records hold counts by topic and level instead of answers
        rows = result["counts"]
        fits = all(_is_count(r["total"]) and _is_count(r["correct"], r["total"]) for r in rows)
        _require(len(rows) > 0 and fits, "a number of right answers is impossible")
        return
    total, correct = result["total"], result["correct"]
    _require(_is_count(total) and total > 0, f"it holds answers to {total} questions")
    _require(_is_count(correct, total), f"{correct} right answers of {total} are impossible")
    try:
        marked = int(accuracy.unpack(result["hits"], total).sum())
    except StoreError as error:
        raise ValueError(f"its answers are not those to {total} questions") from error
    _require(marked == correct, f"{marked} answers are marked right, but {correct} were counted")
    questions = params.get("facts", {}).get(params["split"])
    if params["split"] != "train" and _is_count(questions):
        message = f"it holds {total} answers, but {questions} questions were asked"
        _require(total == questions, message)
    for name in ("restored", "tokens"):
        _require(_is_count(result.get(name, 0)), f"its {name} is not a count")


def _check_mastery(params: dict, result: dict) -> None:
    numbers = dict.fromkeys(paper.SPLITS, 0)
    for row in result["counts"]:
        _require(_is_count(row["count"]), "a number of facts is not a count")
        numbers[row["split"]] += row["count"]
    _check_splits(numbers, params["facts"])


def _check_score(params: dict, result: dict) -> None:
    for split in params["candidates"]:
        counts = list(result["population"][split].values())
        _require(sum(counts) > 0 and all(map(_is_count, counts)), "a number of facts is impossible")


def _check_losses(losses: Sequence[float], steps: int) -> None:
    _require(_is_count(steps) and len(losses) == steps > 0, "it has not one loss for each step")
    _require(all(loss >= 0 for loss in losses), "a loss is negative")


def _check_finetune(params: dict, result: dict) -> None:
    _check_losses([row["loss"] for row in result["losses"]], result["steps"])
    numbers = [row["step"] for row in result["losses"]]
    _require(numbers == list(range(1, len(numbers) + 1)), "its steps are not in order")
    counts = list(result["topics"].values())
    _require(all(map(_is_count, counts)), "a number of facts is not a count")
    size = params.get("size")
    _require(size in (None, sum(counts)), f"it trained on {sum(counts)} facts, not {size}")


def _check_task_finetune(params: dict, result: dict) -> None:
    _check_losses(result["loss"], result["steps"])
    examples, needed = result["examples"], params["train"]
    _require(examples == needed, f"it trained on {examples} examples, not {needed}")


def _check_divergence(params: dict, result: dict) -> None:
    rows = result["table"]
    _require(all(_is_count(row["facts"]) for row in rows), "a number of facts is not a count")
    _require(all(row["kl_sum"] > -1e-6 for row in rows), "a divergence is negative")
    compared = sum(row["facts"] for row in rows)
    _require(compared == result["facts"], f"it compares {compared} facts, not {result['facts']}")


def _check_concentration(params: dict, result: dict) -> None:
    rows = result["table"]
    _require([row["top_percent"] for row in rows] == params["percents"], "shares are missing")
    _require(all(_is_count(row["k"], row["n"]) for row in rows), "a count is impossible")


def _check_where(params: dict, result: dict) -> None:
    rows, shares = result["table"], len(params["percents"])
    _require(len(rows) > 0 and all(len(row["k"]) == shares for row in rows), "shares are missing")
    fits = all(_is_count(k, row["n"]) for row in rows for k in row["k"])
    _require(fits, "a count is impossible")


def _check_task_score(params: dict, result: dict) -> None:
    total = result["total"]
    _require(total == params["test"], f"it scores {total} answers, not {params['test']}")
    for metric, values in result["values"].items():
        _require(len(values) == total, f"it has {len(values)} values of {metric}, not {total}")
        _require(all(0 <= value <= 1 for value in values), f"a value of {metric} is not 0 to 1")
    for name in ("blank", "cut"):
        _require(_is_count(result[name], total), f"its number of {name} answers is impossible")


CHECKS: dict[str, Callable[[dict, dict], None]] = {
    "accuracy": _check_answers,
    "concentration": _check_concentration,
    "divergence": _check_divergence,
    "finetune": _check_finetune,
    "instruct": _check_answers,
    "mastery": _check_mastery,
    "score": _check_score,
    "task_finetune": _check_task_finetune,
    "task_score": _check_task_score,
    "where": _check_where,
}
