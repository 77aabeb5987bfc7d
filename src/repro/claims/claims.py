"""The paper's claims, each checked on the paper's own tables and on the models we ran.

Verdicts are those of `verdicts`, by its rule. On the paper's side the interval is what
rounding to the printed digits hides; on ours it is a 95 % interval, paired where the answers are
kept. A claim of several comparisons is supported when all are and contradicted when any is, unless
it speaks of most or of some. What the tables or the runs do not hold is *not tested*.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

import pandas as pd
import yaml

from repro import files
from repro.claims.checks import CHECKS
from repro.claims.printed_digits import PRINTED
from repro.claims.sources import Evidence, of_paper, of_study
from repro.errors import ConfigError
from repro.models import registry
from repro.report.html import ABSENT
from repro.statistics import verdicts
from repro.statistics.verdicts import COLUMNS, CONTRADICTED, SUPPORTED, UNDECIDED
from repro.study import Study, open_study, profiles

NOT_TESTED = "not tested"
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED)
NONE = "none"  # instead of a check: this side cannot be checked


@dataclass(frozen=True)
class Claim:
    """One claim of `paper/claims.yaml`, which describes the fields."""

    id: str
    where: tuple[str, ...]
    says: str
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
    verdict: str = NOT_TESTED

    def text(self) -> str:
        """Return what the claim says, with its value."""
        return self.says.format(value=self.value.replace("-", "−"))

    def on(self, side: str) -> tuple[str, object] | None:
        """Return kind and settings of the check of a side, "paper" or "ours", or None."""
        own = getattr(self, side) or self.check
        return None if own == NONE else next(iter(own.items()))


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim and the comparisons it rests on (`verdicts.COLUMNS`)."""

    verdict: str
    rows: pd.DataFrame


@cache
def load() -> dict[str, Claim]:
    """Return the claims by id, in the order of the file.

    Raises:
        ConfigError: two claims have one id, or a claim has an unknown field or check.
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
        if claim.id in {other.id for other in claims}:
            raise ConfigError(f"two claims are called {claim.id}")
        for side in ("paper", "ours"):
            if (check := claim.on(side)) and check[0] not in CHECKS:
                known = ", ".join(CHECKS)
                raise ConfigError(f"claim {claim.id}: no check {check[0]!r}; there are: {known}")
        claims.append(claim)
    return claims


def judge(claim: Claim, evidence: Evidence) -> Finding:
    """Return the verdict on a claim from the paper's tables or from a study's runs."""
    check = claim.on("paper" if evidence.printed else "ours")
    if not check:
        return Finding(NOT_TESTED, pd.DataFrame(columns=COLUMNS))
    kind, settings = check
    rows = pd.DataFrame(CHECKS[kind](claim, evidence, settings), columns=COLUMNS)
    rows = rows[rows["verdict"].notna()].reset_index(drop=True)
    of = settings.get("of", "all") if isinstance(settings, dict) else "all"
    return Finding(overall(rows, "some" if kind == "number" else of), rows)


def overall(rows: pd.DataFrame, of: str = "all") -> str:
    """Return the verdict on all, most or some of the comparisons; on none: not tested."""
    if rows.empty:
        return NOT_TESTED
    if of == "all":
        return verdicts.overall(rows)
    found = rows["verdict"].value_counts()
    half = len(rows) // 2 + 1
    holds, fails = {"most": (half, half), "some": (1, len(rows))}[of]
    if found.get(SUPPORTED, 0) >= holds:
        return SUPPORTED
    return CONTRADICTED if found.get(CONTRADICTED, 0) >= fails else UNDECIDED


def findings(sides: Iterable[Evidence], notebook: str = "") -> pd.DataFrame:
    """Return all verdicts, or those on one notebook's claims.

    Columns: side, id, verdict, shows (text), rows (the comparisons).
    """
    found = [
        (side.name, claim.id, finding.verdict, summarise(finding.rows), finding.rows)
        for side in sides
        for claim in load().values()
        if not notebook or claim.notebook == notebook
        for finding in [judge(claim, side)]
    ]
    return pd.DataFrame(found, columns=["side", "id", "verdict", "shows", "rows"])


def table(found: pd.DataFrame) -> pd.DataFrame:
    """Return `findings` as one row a claim, to read or to download: verdict and basis per side."""
    rows = []
    for claim in (load()[name] for name in found["id"].unique()):
        row = {"id": claim.id, "where": ", ".join(claim.where), "claim": claim.text()}
        row |= {"value": claim.value, "unit": claim.unit, "notebook": claim.notebook}
        for side in found[found["id"] == claim.id].itertuples():
            row |= {side.side: side.verdict, f"{side.side}: rests on": side.shows}
        rows.append(row)
    return pd.DataFrame(rows)


def counts(found: pd.DataFrame) -> pd.DataFrame:
    """Return how many claims each side supports, contradicts and so on: one row a side."""
    table = pd.crosstab(found["side"], found["verdict"]).reindex(found["side"].unique())
    return (
        table.reindex(columns=list(VERDICTS), fill_value=0).rename_axis(None, axis=1).reset_index()
    )


def listed(found: pd.DataFrame, side: str, verdict: str) -> str:
    """Return the claims on which a side has a verdict, as a Markdown list with what it rests on."""
    rows = found[(found["side"] == side) & (found["verdict"] == verdict)]
    lines = [
        f"- {load()[row.id].text()} *({', '.join(load()[row.id].where)}: {row.shows})*"
        for row in rows.itertuples()
    ]
    return "\n".join(lines) or "None."


def summarise(rows: pd.DataFrame) -> str:
    """Return what the comparisons show: up to two estimates with intervals, or how many hold."""
    if len(rows) > 2:
        found = rows["verdict"].value_counts()
        parts = [f"{found[v]} {v}" for v in (SUPPORTED, CONTRADICTED, UNDECIDED) if v in found]
        return f"of {len(rows)}: {', '.join(parts)}"
    return "; ".join(_estimate(row) for row in rows.itertuples()) or ABSENT


def _estimate(row) -> str:
    if pd.isna(row.estimate):
        return row.runs
    text = number(row.estimate)
    known = row.interval != PRINTED and not pd.isna(row.low)
    return f"{text} ({number(row.low)} to {number(row.high)})" if known else text


def number(value: float) -> str:
    """Return a number as text: two decimals, none if whole, three where it only looks whole."""
    whole = value == round(value)
    seems = not whole and float(f"{value:.2f}").is_integer()
    return f"{value:.{0 if whole else 3 if seems else 2}f}".replace("-", "−")


def sides(first: Study) -> list[Evidence]:
    """Return the paper, the study `first` and every other that is complete in `results/`."""
    return [of_paper(), of_study(first), *(of_study(other) for other in others(first))]


def others(first: Study) -> Iterable[Study]:
    """Yield every other study that is complete in `results/`."""
    for folder in sorted(files.results_dir().glob("*/*/")):
        name, profile = folder.parent.name, folder.name
        known = name in registry.entries() and profile in profiles.PROFILES
        if known and (name, profile) != (first.model.name, first.profile.name):
            other = open_study(name, profile)
            if not other.missing(other.all_requests()):
                yield other
