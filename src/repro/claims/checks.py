"""The kinds of check that a claim of `paper/claims.yaml` can name.

Each takes the claim, the evidence and the check's settings, and returns rows of
`verdicts.COLUMNS`. A row without a verdict stands for runs that do not exist.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd

from repro import paper
from repro.claims import phenomena
from repro.claims.printed_digits import AUDITS, PRINTED, agrees, equal, told
from repro.claims.sources import LLM, Evidence
from repro.paper import SPLIT_TITLES
from repro.statistics import verdicts
from repro.statistics.verdicts import CONTRADICTED, SUPPORTED

NAMES = {
    "level": "train_level",
    "size": "train_size",
    "restored": "restored_percent",
    "on": "test_level",
}
WORDS = {
    "train_level": "level {}",
    "train_size": "{:,} facts",
    "size_label": "{} facts",
    "restored_percent": "{:g} % restored",
    "test_level": "on level {}",
    "top_percent": "top {:g} %",
    "part": "{} layers",
    "block": "block {}",
    "last": "last: {}",
}
SILENT = {("restored_percent", 0)}  # goes without saying where it is true of all cells
USUAL = {"split": "test", "restored_percent": 0, "llm": LLM}  # where a cell does not say
BEST = "best"  # the restored share that is best on dev, or where there is no dev split, in itself


def compare(claim, evidence: Evidence, settings: dict) -> list[dict]:
    """Compare cells of a frame with each other, or one with a number."""
    if (frame := evidence.frames.get(settings["frame"])) is None:
        return []
    expected, than = settings.get("expected", "above"), settings.get("than", 0)
    than, rows = float(claim.value if than == "value" else than), []
    for at, first, second in _expanded([settings.get(n, {}) for n in PARTS], frame):
        other = [(-weight, cell) for weight, cell in _terms(at | second, frame)] if second else []
        terms = _terms(at | first, frame) + other
        rows.append(_row(evidence, settings["frame"], terms, expected, than))
    return rows


def number(claim, evidence: Evidence, settings: dict) -> list[dict]:
    """Compute a number of the text from cells: the paper's must agree, ours must have its sign.

    With `over` the number is a ratio of two differences, and ours must be above 1.
    """
    name, over = settings["frame"], settings.get("over")
    if (frame := evidence.frames.get(name)) is None:
        return []
    if not evidence.printed:  # the readings differ in the paper's tables alone
        sign = "below" if float(claim.value) < 0 else "above"
        terms = _difference(settings["readings"][0], frame)
        terms += [(-weight, cell) for weight, cell in _difference(over or [], frame)]
        return [_row(evidence, name, terms, sign)]
    rows = [_row(evidence, name, _difference(cells, frame)) for cells in settings["readings"]]
    if over:
        below = _row(evidence, name, _difference(over, frame))
        rows = [_ratio(row, below) for row in rows]
    return [agrees(claim.value, row) for row in rows]


def rule(_claim, evidence: Evidence, settings: dict) -> list[dict]:
    """Apply a function of `phenomena` to a frame, or to one source in it.

    With `size`, only where that is the largest size that two levels have: the one it looks at.
    """
    name = settings["frame"]
    if (frame := evidence.frames.get(name)) is None:
        return []
    if "source" in settings and "source" in frame:
        frame = frame[frame["source"] == settings["source"]]
    if "size" in settings and phenomena.largest_common_size(frame) != settings["size"]:
        return []
    given = {key: settings[key] for key in ("split",) if key in settings}
    given |= {"units": evidence.units[name]} if name in evidence.units else {}
    rows = getattr(phenomena, settings["name"])(frame, **given).to_dict("records")
    way = {"interval": PRINTED} if evidence.printed else {}
    return [row | way | ({"verdict": None} if np.isnan(row["estimate"]) else {}) for row in rows]


def count(claim, _evidence: Evidence, what: str) -> list[dict]:
    """Count something in the paper's own data."""
    models = paper.table("distribution")["model"].unique()
    templates = {len(topic.mappings) for topic in paper.TOPICS.values()}
    found = {
        "models": len(models),
        "families": len({name.rpartition("-")[0] for name in models}),
        "topics": len(paper.TOPICS),
        "in-domain topics": sum(topic.domain == "in" for topic in paper.TOPICS.values()),
        "templates of each topic": templates.pop() if len(templates) == 1 else np.nan,
        "levels": paper.table("distribution")["level"].nunique(),
        "strategies": paper.table("strategies")["strategy"].nunique(),
    }[what]
    return [agrees(claim.value, told(what, found))]


def agree(_claim, _evidence: Evidence, said: list[str]) -> list[dict]:
    """Judge whether two statements of the text are the same."""
    verdict = SUPPORTED if len(set(said)) == 1 else CONTRADICTED
    return [told(" | ".join(f"“{text}”" for text in said), np.nan, verdict=verdict)]


def audit(claim, _evidence: Evidence, name: str) -> list[dict]:
    """Judge by what the printed digits allow."""
    return AUDITS[name](claim.value)


CHECKS: dict[str, Callable[..., list[dict]]] = {
    check.__name__: check for check in (compare, number, rule, count, agree, audit)
}
PARTS = ("at", "first", "second")  # of a comparison, in the order in which they vary


def _row(
    evidence: Evidence, name: str, terms: list, expected: str = "above", than: float = 0.0
) -> dict:
    """Judge a weighted sum of cells; of runs that do not exist the verdict is None."""
    frame, units = evidence.frames[name], evidence.units.get(name)
    terms = [(weight, _chosen(cell, frame)) for weight, cell in terms]
    if len(terms) == 2 and terms[0][1] == terms[1][1]:  # best is to restore nothing
        return told(_described(terms[:1]), 0.0, verdict=verdicts.judge(-than, -than, expected))
    row = verdicts.compare("", frame, terms, expected, units)
    if pd.isna(row["estimate"]):
        return row | {"verdict": None}
    row["runs"] = _described(terms) + (f"; {expected} {than:g}" if than else "")
    if evidence.printed:
        row["interval"] = PRINTED
    if expected == "equal":
        return row | {"verdict": equal("", row["estimate"])["verdict"]}
    return row | {"verdict": verdicts.judge(row["low"] - than, row["high"] - than, expected)}


def _described(terms: list[tuple[int, dict]]) -> str:
    """Return terms in words: what differs between them, then what they share."""
    cells = [cell for _, cell in terms]
    shared = {k: v for k, v in cells[0].items() if all(cell.get(k) == v for cell in cells)}
    told, text = {key: value for key, value in shared.items() if (key, value) not in SILENT}, ""
    for weight, cell in terms if len(terms) > 1 else ():
        own = _words({key: value for key, value in cell.items() if key not in shared})
        text += (" − " if weight < 0 else " + " if text else "") + own
    return ": ".join(filter(None, [_words(told), text]))


def _words(cell: dict) -> str:
    return ", ".join(
        WORDS.get(key, "{}").format(SPLIT_TITLES.get(value, value)) for key, value in cell.items()
    )


def _ratio(row: dict, below: dict) -> dict:
    ends = [row[a] / below[b] for a in ("low", "high") for b in ("low", "high")]
    runs = f"({row['runs']}) / ({below['runs']})"
    estimate = row["estimate"] / below["estimate"]
    return row | {"runs": runs, "estimate": estimate, "low": min(ends), "high": max(ends)}


def _expanded(parts: list[dict], frame: pd.DataFrame) -> Iterator[tuple[dict, ...]]:
    """Yield the parts with each list replaced by one of its values, in all combinations.

    Leaves out what the frame has no column for, and pairs of a cell with itself.
    """
    keys, values = [], []
    for place, part in enumerate(parts):
        for key, value in part.items():
            if key == "less" or NAMES.get(key, key) in frame:
                keys.append((place, key))
                values.append(value if isinstance(value, list) else [value])
    for combination in itertools.product(*values):
        made: list[dict] = [{} for _ in parts]
        for (place, key), value in zip(keys, combination, strict=True):
            made[place][key] = value
        if made[1] != made[2]:
            yield tuple(made)


def _difference(cells: list[dict], frame: pd.DataFrame) -> list[tuple[int, dict]]:
    """Return the terms of a cell, or of the first of two cells less the second."""
    first, *second = [_terms(cell, frame) for cell in cells] or [[]]
    return first + [(-weight, cell) for terms in second for weight, cell in terms]


def _terms(cell: dict, frame: pd.DataFrame) -> list[tuple[int, dict]]:
    """Return a cell as a term, and with `less` as two; what it does not say is `USUAL`."""
    own = {key: value for key, value in cell.items() if key != "less"}
    named = USUAL | {NAMES.get(key, key): value for key, value in own.items()}
    named = {key: value for key, value in named.items() if key in frame}
    # All facts of a level may be as many as a sampled size, so where sizes have names these count.
    if "size_label" in frame and "train_size" in named:
        named["size_label"] = str(named.pop("train_size"))
    less = _terms(own | cell["less"], frame) if "less" in cell else []
    return [(1, named), *((-weight, other) for weight, other in less)]


def _chosen(cell: Mapping[str, object], frame: pd.DataFrame) -> dict:
    """Return a cell in which the share `BEST` is a number."""
    if cell.get("restored_percent") != BEST:
        return dict(cell)
    where = {key: value for key, value in cell.items() if key != "restored_percent"}
    if "split" in frame and "dev" in set(frame["split"]):
        where["split"] = "dev"
    kept = np.logical_and.reduce([frame[key] == value for key, value in where.items()])
    rows = frame[kept].sort_values("restored_percent", kind="stable")
    share = rows.loc[rows["accuracy"].idxmax(), "restored_percent"] if len(rows) else np.nan
    return {**cell, "restored_percent": share}
