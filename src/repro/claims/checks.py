"""The kinds of check that a claim of `paper/claims.yaml` can name.

A check takes the claim, the side on which it is checked and the settings of the check. It returns
the rows of `verdicts.compare_jointly`, one for each comparison that the frames of the side allow.
Comparisons of runs that do not exist have no row.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd

from repro import paper
from repro.claims import phenomena
from repro.claims.digit_checks import DIGIT_CHECKS, agrees, printed_row, table_of
from repro.claims.sources import LLM, Side
from repro.paper import SPLIT_TITLES
from repro.statistics import verdicts
from repro.statistics.bootstrap import matching
from repro.statistics.contrasts import Comparison
from repro.statistics.verdicts import CONTRADICTED, SUPPORTED, UNDECIDED

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
    "layer": "layer {}",
    "quarter": "quarter {} of the layers",
    "block": "block {}",
    "last": "last: {}",
}
SILENT = {("restored_percent", 0)}  # not mentioned in words if it is true of all cells
USUAL = {"split": "test", "restored_percent": 0, "llm": LLM}  # values that a cell need not name
BEST = "best"  # the restored share that is best on dev, or without a dev split on the same split
EVERY = "every"  # all values of a column
NO_HARM, MARGIN = "no harm", 1.0  # a loss of less than so many points does not count
PARTS = ("at", "first", "second")  # of a comparison, in the order in which they vary
Terms = list[tuple[float, dict]]


def compare(claim, side: Side, settings: dict) -> pd.DataFrame:
    """Compare cells of a frame with each other, or one with a number."""
    if (frame := side.frames.get(settings["frame"])) is None:
        return table_of([])
    expected, than = settings.get("expected", "above"), settings.get("than", 0)
    than = float(claim.value if than == "value" else than)
    if expected == NO_HARM:
        expected, than = "above", -MARGIN
    cells = []
    for at, first, second in _expanded([settings.get(n, {}) for n in PARTS], frame):
        subtracted = [(-weight, cell) for weight, cell in _terms(at | second, frame)]
        cells.append(_terms(at | first, frame) + (subtracted if second else []))
    of = settings.get("of", verdicts.ALL)
    return _compared(side, settings["frame"], cells, expected, than, of)


def impact(_claim, side: Side, settings: dict) -> pd.DataFrame:
    """Compare the absolute changes of accuracy from restoring two blocks of layers.

    A change is relative to the same model without restoration, the block −1 of the frame. Its sign
    is taken from the estimate, so that a difference of two absolute changes is a weighted sum of
    runs.
    """
    name = settings["frame"]
    if (frame := side.frames.get(name)) is None:
        return table_of([])
    cells = []
    for at, first, second in _expanded([settings.get(n, {}) for n in PARTS], frame):
        base = _terms(at | {"block": -1}, frame)
        changes = [
            _oriented(side, name, _less(_terms(at | part, frame), base)) for part in (first, second)
        ]
        cells.append(_less(*changes))
    return _compared(side, name, cells, "below", 0.0, verdicts.ALL)


def number(claim, side: Side, settings: dict) -> pd.DataFrame:
    """Compute a number of the text from cells of a table.

    The paper's own number must agree with the text, and ours must have the same sign. With
    `over_value` the paper's number must be larger. With `over` the number is a ratio of two
    differences, and ours must be above 1.
    """
    name, over = settings["frame"], settings.get("over")
    if (frame := side.frames.get(name)) is None:
        return table_of([])
    if not side.printed:  # only the paper's tables are read in several ways
        sign = "below" if float(claim.value) < 0 else "above"
        terms = _difference(settings["readings"][0], frame)
        terms = _less(terms, _difference(over or [], frame))
        return _compared(side, name, [terms], sign)
    rows = [_reading(frame, _difference(cells, frame)) for cells in settings["readings"]]
    if over:
        divisor = _reading(frame, _difference(over, frame))
        rows = [_ratio(row, divisor) for row in rows]
    above = settings.get("over_value", False)
    return table_of([agrees(claim.value, row, above) for row in rows])


def rule(_claim, side: Side, settings: dict) -> pd.DataFrame:
    """Apply a function of `phenomena` to a frame, or to one source in it.

    With `size`, it is applied only if this is the largest size that two levels have, which the
    function uses.
    """
    name = settings["frame"]
    if (frame := side.frames.get(name)) is None:
        return table_of([])
    if "source" in settings and "source" in frame:
        frame = frame[frame["source"] == settings["source"]]
    if "size" in settings and phenomena.largest_common_size(frame) != settings["size"]:
        return table_of([])
    options = {key: settings[key] for key in ("split",) if key in settings}
    options |= {"units": side.units[name]} if name in side.units else {}
    return _existing(getattr(phenomena, settings["name"])(frame, **options))


def count(claim, _side: Side, what: str) -> pd.DataFrame:
    """Count something in the data of the paper."""
    models = paper.table("distribution")["model"].unique()
    templates = {len(topic.mappings) for topic in paper.TOPICS.values()}
    counted = {
        "models": len(models),
        "families": len({name.rpartition("-")[0] for name in models}),
        "topics": len(paper.TOPICS),
        "in-domain topics": sum(topic.domain == "in" for topic in paper.TOPICS.values()),
        "templates of each topic": templates.pop() if len(templates) == 1 else np.nan,
        "levels": paper.table("distribution")["level"].nunique(),
        "strategies": paper.table("strategies")["strategy"].nunique(),
    }[what]
    return table_of([agrees(claim.value, printed_row(what, counted))])


def agree(_claim, _side: Side, phrases: list[str]) -> pd.DataFrame:
    """Judge whether phrases of the text agree with each other."""
    verdict = SUPPORTED if len(set(phrases)) == 1 else CONTRADICTED
    text = " | ".join(f"“{phrase}”" for phrase in phrases)
    return table_of([printed_row(text, np.nan, verdict=verdict)])


def digits(claim, _side: Side, name: str) -> pd.DataFrame:
    """Judge by the printed digits (`repro.claims.digit_checks`)."""
    return DIGIT_CHECKS[name](claim.value)


CHECKS: dict[str, Callable[..., pd.DataFrame]] = {
    check.__name__: check for check in (compare, impact, number, rule, count, agree, digits)
}


def _compared(
    side: Side, name: str, cells: list[Terms], expected: str, than: float = 0.0, of=verdicts.ALL
) -> pd.DataFrame:
    """Test weighted sums of cells of one frame together, each with its words.

    If it is best to restore nothing, a gain has no runs to compare, and decides nothing.
    """
    frame, units = side.frames[name], side.units.get(name)
    chosen_on = side.frames.get("restored", frame) if name == "restored_levels" else frame
    chosen = [[(weight, _chosen(cell, chosen_on)) for weight, cell in terms] for terms in cells]
    gains = [terms for terms in chosen if not _is_nothing(terms)]
    rows = verdicts.compare_jointly(
        [Comparison("", terms, expected, frame, units, than) for terms in gains], of
    )
    bound = f"; {expected} {than:g}".replace("-", "−") if than else ""
    rows["runs"] = [_described(terms) + bound for terms in gains]
    if expected == "equal":
        equal = np.where(rows["estimate"].abs() < 1e-9, SUPPORTED, CONTRADICTED)
        rows = rows.assign(verdict=equal).drop(columns=[verdicts.FOR, verdicts.AGAINST])
    rows, pooled = _existing(rows), rows.attrs["pooled"]
    none = [
        printed_row(_described(t[:1]), 0.0, verdict=UNDECIDED) for t in chosen if _is_nothing(t)
    ]
    if none:
        rows = pd.concat([rows, table_of(none).assign(p_for=1.0, p_against=1.0)], ignore_index=True)
    rows.attrs["pooled"] = None if expected == "equal" else pooled
    return rows


def _is_nothing(terms: Terms) -> bool:
    return len(terms) == 2 and terms[0][1] == terms[1][1]


def _existing(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons of runs that exist."""
    return rows[rows["estimate"].notna()].reset_index(drop=True)


def _reading(frame: pd.DataFrame, terms: Terms) -> dict:
    """Return a row on printed numbers, with the interval that rounding alone gives."""
    alone = frame.drop(columns="spread", errors="ignore")
    return verdicts.compare("", alone, terms, "above") | {"runs": _described(terms)}


def _oriented(side: Side, name: str, terms: Terms) -> Terms:
    """Return terms with the signs that make their sum positive; unchanged if runs are missing."""
    row = verdicts.compare("", side.frames[name], terms, "above")
    sign = -1 if row["estimate"] < 0 else 1
    return [(sign * weight, cell) for weight, cell in terms]


def _less(first: Terms, second: Terms) -> Terms:
    """Return the terms of a difference, each cell once."""
    weights: dict[tuple, float] = {}
    for weight, cell in [*first, *((-weight, cell) for weight, cell in second)]:
        key = tuple(cell.items())
        weights[key] = weights.get(key, 0) + weight
    return [(weight, dict(key)) for key, weight in weights.items() if weight]


def _described(terms: Terms) -> str:
    """Return terms in words: first the values that differ, then those that they share."""
    cells = [cell for _, cell in terms]
    shared = {k: v for k, v in cells[0].items() if all(cell.get(k) == v for cell in cells)}
    said = {key: value for key, value in shared.items() if (key, value) not in SILENT}
    text = ""
    for weight, cell in terms if len(terms) > 1 else ():
        words = _words({key: value for key, value in cell.items() if key not in shared})
        times = "" if abs(weight) == 1 else f"{abs(weight):g} × "
        text += (" − " if weight < 0 else " + " if text else "") + times + words
    return ": ".join(filter(None, [_words(said), text]))


def _words(cell: dict) -> str:
    parts = []
    for key, value in cell.items():
        if key == "block" and value == -1:
            parts.append("nothing restored")
        else:
            parts.append(WORDS.get(key, "{}").format(SPLIT_TITLES.get(value, value)))
    return ", ".join(parts)


def _ratio(row: dict, divisor: dict) -> dict:
    ends = [row[a] / divisor[b] for a in ("low", "high") for b in ("low", "high")]
    runs = f"({row['runs']}) / ({divisor['runs']})"
    estimate = row["estimate"] / divisor["estimate"]
    return row | {"runs": runs, "estimate": estimate, "low": min(ends), "high": max(ends)}


def _expanded(parts: list[dict], frame: pd.DataFrame) -> Iterator[tuple[dict, ...]]:
    """Yield the parts with each list replaced by one of its values, in all combinations.

    Names without a column in the frame are left out, and so are pairs of a cell with itself.
    """
    keys, values = [], []
    for place, part in enumerate(parts):
        for key, value in part.items():
            if key == "less" or NAMES.get(key, key) in frame:
                keys.append((place, key))
                every = sorted(frame[NAMES.get(key, key)].unique()) if value == EVERY else value
                values.append(every if isinstance(every, list) else [every])
    for combination in itertools.product(*values):
        cells: list[dict] = [{} for _ in parts]
        for (place, key), value in zip(keys, combination, strict=True):
            cells[place][key] = value
        if cells[1] != cells[2] or not parts[2]:
            yield tuple(cells)


def _difference(cells: list[dict], frame: pd.DataFrame) -> Terms:
    """Return the terms of a cell, or of the first of two cells less the second."""
    first, *second = [_terms(cell, frame) for cell in cells] or [[]]
    return first + [(-weight, cell) for terms in second for weight, cell in terms]


def _terms(cell: dict, frame: pd.DataFrame) -> Terms:
    """Return a cell as a term, or with `less` as two; values that it does not name are `USUAL`."""
    named = {key: value for key, value in cell.items() if key != "less"}
    less = _terms(named | cell["less"], frame) if "less" in cell else []
    named = USUAL | {NAMES.get(key, key): value for key, value in named.items()}
    named = {key: value for key, value in named.items() if key in frame}
    # The number of all facts of a level may equal a sampled size, so sizes are picked by name if
    # they have names.
    if "size_label" in frame and "train_size" in named:
        named["size_label"] = str(named.pop("train_size"))
    return [(1, named), *((-weight, subtracted) for weight, subtracted in less)]


def _chosen(cell: Mapping[str, object], frame: pd.DataFrame) -> dict:
    """Return a cell in which the share `BEST` is a number."""
    if cell.get("restored_percent") != BEST:
        return dict(cell)
    where = {k: v for k, v in cell.items() if k != "restored_percent" and k in frame}
    if "split" in frame and "dev" in set(frame["split"]):
        where["split"] = "dev"
    rows = frame[matching(frame, where)].sort_values("restored_percent", kind="stable")
    share = rows.loc[rows["accuracy"].idxmax(), "restored_percent"] if len(rows) else np.nan
    return {**cell, "restored_percent": share}
