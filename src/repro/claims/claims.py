"""The claims of the paper, each checked on the paper's own tables and on our models.

`repro.statistics.verdicts` judges the comparisons of a claim. The verdict gets its name here:

- *contradicted*: the paper's tables contradict the text;
- *not reproduced by the tables*: the tables do not give a number of the text;
- *slip*: a word, a count or a caption is wrong;
- *our observation*: the paper does not claim it;
- *same direction*: one of our models agrees with a number of the paper in its sign, not its size;
- *not testable here*: the tables or runs do not have the numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import pandas as pd
import yaml

from repro import files
from repro.claims.checks import CHECKS
from repro.claims.sources import Side, of_paper, of_study
from repro.errors import ConfigError
from repro.models import registry
from repro.report.html import ABSENT
from repro.statistics import contrasts, verdicts
from repro.statistics.verdicts import (
    COLUMNS,
    CONTRADICTED,
    EXCEPTIONS,
    HOLDS,
    SOME,
    SUPPORTED,
    UNDECIDED,
)
from repro.study import Study, open_study, profiles
from repro.study.requests import missing

SAME_DIRECTION = "same direction"
NOT_REPRODUCED = "not reproduced by the tables"
SLIP = "slip"
NOT_TESTABLE = "not testable here"
OBSERVATION = "our observation"
VERDICTS = (
    HOLDS,
    EXCEPTIONS,
    SAME_DIRECTION,
    UNDECIDED,
    NOT_REPRODUCED,
    SLIP,
    CONTRADICTED,
    OBSERVATION,
    NOT_TESTABLE,
)
STATEMENT, NUMBER, OBSERVED = "statement", "number", "observation"
KINDS = {STATEMENT: CONTRADICTED, NUMBER: NOT_REPRODUCED, SLIP: SLIP, OBSERVED: OBSERVATION}
NONE = "none"  # in place of a check: the claim cannot be checked on this side


@dataclass(frozen=True)
class Claim:
    """One claim of `paper/claims.yaml`, which describes the fields."""

    id: str
    where: tuple[str, ...]
    says: str
    quotes: dict[str, str] = field(default_factory=dict)
    kind: str = STATEMENT
    quantity: str = ""
    value: str = ""
    unit: str = ""
    numbers: tuple[str, ...] = ()
    check: dict | str = NONE
    paper: dict | str | None = None
    ours: dict | str | None = None
    notebook: str = ""
    note: str = ""
    quoted: str = ""
    verdict: str = NOT_TESTABLE
    count: str = ""
    outcome: str = ""

    def text(self) -> str:
        """Return the text of the claim, with its value."""
        return self.says.format(value=self.value.replace("-", "−"))

    def check_of(self, side: str) -> tuple[str, object] | None:
        """Return kind and settings of the check of a side, "paper" or "ours", or None."""
        check = getattr(self, side) or self.check
        return None if check == NONE else next(iter(check.items()))


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim, and the comparisons that it is based on (`verdicts.COLUMNS`).

    `outcome` is the verdict of the comparisons alone, `count` the numbers of comparisons as claimed
    and of all, `pooled` their mean effect in the claimed direction with its 95 % interval.
    """

    verdict: str
    rows: pd.DataFrame
    outcome: str = ""
    count: tuple[int, int] = (0, 0)
    pooled: tuple[float, float, float] | None = None


@cache
def load() -> dict[str, Claim]:
    """Return the claims by id, in the order of the file.

    Raises:
        ConfigError: two claims have the same id, or a claim has an unknown field, kind or check.
    """
    text = (resources.files("repro.paper") / "claims.yaml").read_text(encoding="utf-8")
    return {claim.id: claim for claim in parse(text)}


def parse(text: str) -> list[Claim]:
    """Return the claims of a YAML text; see `load`."""
    claims = []
    for fields in yaml.safe_load(text):
        many = {name: tuple(fields.get(name, ())) for name in ("where", "numbers")}
        try:
            claim = Claim(**fields | many)
        except TypeError as error:
            raise ConfigError(f"claim {fields.get('id')}: {error}") from None
        if claim.id in {earlier.id for earlier in claims}:
            raise ConfigError(f"two claims are called {claim.id}")
        _check_names(claim)
        claims.append(claim)
    return claims


def _check_names(claim: Claim) -> None:
    """Raise ConfigError if the kind or the check of a claim does not exist."""
    if claim.kind not in KINDS:
        names = ", ".join(KINDS)
        raise ConfigError(f"claim {claim.id}: no kind {claim.kind!r}; there are: {names}")
    for side in ("paper", "ours"):
        if (check := claim.check_of(side)) and check[0] not in CHECKS:
            names = ", ".join(CHECKS)
            raise ConfigError(f"claim {claim.id}: no check {check[0]!r}; there are: {names}")


def judge(claim: Claim, side: Side) -> Finding:
    """Return the verdict on a claim from the paper's tables or from a study's runs."""
    check = claim.check_of("paper" if side.printed else "ours")
    if not check:
        return Finding(NOT_TESTABLE, pd.DataFrame(columns=COLUMNS))
    kind, settings = check
    rows = CHECKS[kind](claim, side, settings)
    if rows.empty:
        return Finding(NOT_TESTABLE, rows)
    of = settings.get("of", verdicts.ALL) if isinstance(settings, dict) else verdicts.ALL
    of = SOME if kind == "number" else of
    outcome = rows.attrs.get("outcome") or verdicts.overall(rows, of)
    count = rows.attrs.get("count") or verdicts.count(rows)
    verdict = _named(claim, outcome) if side.printed else _of_model(claim, kind, outcome, rows)
    return Finding(verdict, rows, outcome, count, rows.attrs.get("pooled"))


def _named(claim: Claim, outcome: str) -> str:
    """Return the verdict on the paper's own tables."""
    if claim.kind == OBSERVED:
        return OBSERVATION
    failed = (
        outcome in (CONTRADICTED, EXCEPTIONS) if claim.kind == SLIP else outcome == CONTRADICTED
    )
    return KINDS[claim.kind] if failed else outcome


def _of_model(claim: Claim, kind: str, outcome: str, rows: pd.DataFrame) -> str:
    """Return the verdict on a model, whose number may agree in its sign but not in its size."""
    if kind != "number" or outcome != HOLDS or claim.unit not in ("points", "%"):
        return outcome
    row = rows.iloc[0]
    return outcome if row["low"] <= float(claim.value) <= row["high"] else SAME_DIRECTION


def findings(sides: Iterable[Side], notebook: str = "") -> pd.DataFrame:
    """Return all verdicts, or those on one notebook's claims.

    Columns: side, id, verdict, shows (text), and of `Finding`: rows, outcome, count, pooled.
    """
    table = []
    for side in sides:
        for claim in load().values():
            if not notebook or claim.notebook == notebook:
                one = judge(claim, side)
                shows = summarise(claim, one)
                values = (one.verdict, shows, one.rows, one.outcome, one.count, one.pooled)
                table.append((side.name, claim.id, *values))
    columns = ["side", "id", "verdict", "shows", "rows", "outcome", "count", "pooled"]
    return pd.DataFrame(table, columns=columns)


def table(judged: pd.DataFrame) -> pd.DataFrame:
    """Return `findings` with one row per claim, to read or download: verdict and basis by side."""
    rows = []
    for claim in (load()[name] for name in judged["id"].unique()):
        row = {"id": claim.id, "where": ", ".join(claim.where), "claim": claim.text()}
        row |= {"value": claim.value, "unit": claim.unit, "notebook": claim.notebook}
        for side in judged[judged["id"] == claim.id].itertuples():
            row |= {side.side: said(side), f"{side.side}: rests on": side.shows}
        rows.append(row)
    return pd.DataFrame(rows)


def long_table(judged: pd.DataFrame) -> pd.DataFrame:
    """Return `findings` with one row per claim and side that tests it, with quotes and effects."""
    rows = []
    for side in judged[judged["verdict"] != NOT_TESTABLE].itertuples():
        claim = load()[side.id]
        n, k = side.count
        effect, low, high = side.pooled or (None, None, None)
        quotes = " ".join(f"“{text.strip()}” ({place})" for place, text in claim.quotes.items())
        row = {"id": claim.id, "kind": claim.kind, "where": ", ".join(claim.where)}
        row |= {"claim": claim.text(), "quotes": quotes, "value": claim.value, "unit": claim.unit}
        row |= {"side": side.side, "verdict": side.verdict, "outcome": side.outcome}
        row |= {"as_claimed": n, "comparisons": k, "mean_effect": effect, "low": low, "high": high}
        rows.append(row | {"rests_on": side.shows, "notebook": claim.notebook})
    return pd.DataFrame(rows)


def everything(judged: pd.DataFrame) -> list[dict]:
    """Return `findings` as JSON data: claims with their quotes, verdicts and comparisons."""
    by_claim = []
    for name in judged["id"].unique():
        claim = load()[name]
        entry = {
            "id": name,
            "kind": claim.kind,
            "where": list(claim.where),
            "quotes": {place: text.strip() for place, text in claim.quotes.items()},
            "says": claim.text(),
            "value": claim.value,
            "unit": claim.unit,
            "note": claim.note.strip(),
            "notebook": claim.notebook,
            "sides": {},
        }
        for side in judged[judged["id"] == name].itertuples():
            entry["sides"][side.side] = _plain(side)
        by_claim.append(entry)
    return by_claim


def _plain(side) -> dict:
    """Return a verdict with its comparisons as JSON data; unknown numbers are None."""
    columns = [name for name in [*COLUMNS, "low_joint", "high_joint"] if name in side.rows]
    rows = side.rows[columns].round(4)
    comparisons = rows.astype(object).where(rows.notna(), None)
    n, k = side.count
    return {
        "verdict": side.verdict,
        "outcome": side.outcome,
        "as claimed": n,
        "comparisons": k,
        "pooled effect": side.pooled and [round(float(value), 4) for value in side.pooled],
        "columns": columns,
        "rows": comparisons.to_numpy().tolist(),
    }


def counts(judged: pd.DataFrame) -> pd.DataFrame:
    """Return the number of claims with each verdict, one row per side."""
    table = pd.crosstab(judged["side"], judged["verdict"]).reindex(judged["side"].unique())
    return (
        table.reindex(columns=list(VERDICTS), fill_value=0).rename_axis(None, axis=1).reset_index()
    )


def said(cell) -> str:
    """Return a verdict; if it has several comparisons, with "n of k"."""
    n, k = cell.count
    basis = f": {cell.outcome}" if cell.verdict == OBSERVATION else ""
    return f"{cell.verdict}{basis} ({n} of {k})" if k > 1 else f"{cell.verdict}{basis}"


def summarise(claim: Claim, finding: Finding) -> str:
    """Return the result of the comparisons: up to two estimates, or how many hold."""
    rows = finding.rows
    if finding.verdict == SAME_DIRECTION:
        estimate = _estimate(next(rows.itertuples()))
        return f"{estimate} here, {claim.value.replace('-', '−')} in the paper"
    if len(rows) > 2:
        verdict_counts = rows["verdict"].value_counts()
        words = (SUPPORTED, CONTRADICTED, UNDECIDED)
        parts = [f"{verdict_counts[v]} {v}" for v in words if v in verdict_counts]
        return f"of {len(rows)}: {', '.join(parts)}"
    return "; ".join(_estimate(row) for row in rows.itertuples()) or ABSENT


def _estimate(row) -> str:
    if pd.isna(row.estimate):
        return row.runs
    text = number(row.estimate)
    has_interval = row.interval != contrasts.ROUNDING and not pd.isna(row.low)
    return f"{text} ({number(row.low)} to {number(row.high)})" if has_interval else text


def number(value: float) -> str:
    """Return a number as text: two decimals, none if whole, three if it would only look whole."""
    is_whole = value == round(value)
    seems_whole = not is_whole and float(f"{value:.2f}").is_integer()
    return f"{value:.{0 if is_whole else 3 if seems_whole else 2}f}".replace("-", "−")


def sides(first: Study) -> list[Side]:
    """Return the paper, the study `first` and every other that is complete in `results/`."""
    return [of_paper(), of_study(first), *(of_study(study) for study in others(first))]


def others(first: Study) -> Iterable[Study]:
    """Yield every other study that is complete in `results/`."""
    for folder in sorted(files.results_dir().glob("*/*/")):
        name, profile = folder.parent.name, folder.name
        is_known = name in registry.entries() and profile in profiles.PROFILES
        if is_known and (name, profile) != (first.model.name, first.profile.name):
            study = open_study(name, profile)
            if not missing(study.all_requests()):
                yield study
