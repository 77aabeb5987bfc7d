"""The page of claims: a matrix of claims by models, and below it a line for each claim, to open.

A verdict is a sign with a text alternative, so colour is never the only sign. The filters are radio
buttons, and a style sheet hides the claims that they exclude (`:has`, in browsers since 2023), so
they need no script and no network. A short script keeps the choice in the address of the page, and
opens the claim in the address.
"""

import base64
import html
import json

import pandas as pd

from repro.claims.claims import (
    EXCEPTIONS,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    OBSERVATION,
    SAME_DIRECTION,
    SLIP,
    VERDICTS,
    Claim,
    everything,
    load,
    long_table,
    number,
    said,
)
from repro.claims.claims_style import CSS, SCRIPT
from repro.report.html import GREEN, RED, Html, csv_link
from repro.statistics.verdicts import CONTRADICTED, HOLDS, SUPPORTED, UNDECIDED

SIGNS = {
    HOLDS: "✓",
    EXCEPTIONS: "◐",
    SAME_DIRECTION: "↗",
    UNDECIDED: "?",
    NOT_REPRODUCED: "≠",
    SLIP: "✎",
    CONTRADICTED: "✗",
    OBSERVATION: "◆",
    NOT_TESTABLE: "·",
    SUPPORTED: "✓",
}
COLOURS = {
    HOLDS: GREEN,
    EXCEPTIONS: (140, 175, 0),
    SAME_DIRECTION: (0, 140, 200),
    UNDECIDED: (128, 128, 128),
    NOT_REPRODUCED: (235, 125, 0),
    SLIP: (215, 180, 0),
    CONTRADICTED: RED,
    OBSERVATION: (140, 90, 220),
}
# Sections of the page: title, and the parts of the paper whose claims belong to it.
PARTS = {
    "Setup": ("§3.1", "§3.2", "§3.3", "App. D", "App. F"),
    "Abstract and §1": ("Abstract", "§1"),
    "§3.4 Results": ("§3.4", "App. C.1", "Figure 6"),
    "§4 Tokens": ("§4",),
    "§5 Parameters": ("§5", "App. B.2", "App. C.2", "§6"),
    "App. C.3 Strategies": ("App. C.3",),
    "App. E Layers": ("App. E",),
}
TITLES = {"paper": "the paper's tables"}


def page(judged: pd.DataFrame, title: str) -> Html:
    """Return `claims.findings` as a page: counts, filters, matrix, claims, downloads."""
    sides = list(judged["side"].unique())
    cells = {(row.id, row.side): row for row in judged.itertuples()}
    by_part = _by_part()
    matrix = "".join(_matrix(part, claims, cells, sides) for part, claims in by_part.items())
    claims = "".join(
        f"<section><h2>{html.escape(part)}</h2>"
        + "".join(_claim(part, claim, cells, sides) for claim in members)
        + "</section>"
        for part, members in by_part.items()
    )
    form, rules = _filters(by_part, judged, sides)
    text = f'<div class="repro-claims"><style>{CSS}{_colours()}{rules}</style>'
    text += f'{_counts(judged, sides)}<div class="matrix">{matrix}</div>{form}{claims}'
    text += "<p><small>What the filters leave out is not listed.</small></p>"
    text += f"<script>{SCRIPT}</script></div>"
    downloads = csv_link(long_table(judged), title).html + _json_link(judged, title)
    return Html(text + downloads, title)


def part_of(claim: Claim) -> str:
    """Return the section of the page to which the place of a claim's first quote belongs."""
    place = next(iter(claim.quotes))
    return next(part for part, places in PARTS.items() if place.startswith(places))


def _by_part() -> dict[str, list[Claim]]:
    members: dict[str, list[Claim]] = {part: [] for part in PARTS}
    for claim in load().values():
        members[part_of(claim)].append(claim)
    return members


def _counts(judged: pd.DataFrame, sides: list[str]) -> str:
    """Return a line with the number of each verdict on the paper, which is also the legend."""
    counts = judged.loc[judged["side"] == sides[0], "verdict"].value_counts()
    chips = [
        f'<span class="chip {_slug(v)}">{SIGNS[v]} {counts[v]} {v}</span>'
        for v in VERDICTS
        if v in counts
    ]
    name = html.escape(TITLES.get(sides[0], sides[0]))
    return f'<p class="counts">{len(load())} claims. On {name}: {" ".join(chips)}</p>'


def _filters(by_part: dict, judged: pd.DataFrame, sides: list[str]) -> tuple[str, str]:
    """Return the form and the style rules of its buttons."""
    parts = {_slug(part): (part, len(claims)) for part, claims in by_part.items()}
    tested = judged[judged["verdict"] != NOT_TESTABLE].groupby("side").size()
    on = {f"side{n}": (TITLES.get(s, s), tested.get(s, 0)) for n, s in enumerate(sides)}
    verdicts = {_slug(v): (f"{SIGNS[v]} {v}", None) for v in VERDICTS}
    form = _group("part", "Part", parts, "all") + _group("verdict", "Verdict", verdicts, "all")
    form += _group("on", "Shown by", on, None)
    rules = ""
    for value in parts:
        rules += f"{_chosen('part', value)} .claim:not(.part-{value}){{display:none}}\n"
        rules += f"{_chosen('part', value)} section:not(:has(.part-{value})){{display:none}}\n"
    for value in verdicts:
        for side in on:
            chosen = f".repro-claims:has({_checked('on', side)}):has({_checked('verdict', value)})"
            rules += f"{chosen} details.claim:not(.{side}-{value}){{display:none}}\n"
            rules += f"{chosen} .matrix a:not(.{side}-{value}){{opacity:.12}}\n"
            rules += f"{chosen} section:not(:has(.{side}-{value})){{display:none}}\n"
    return f'<form>{form}<button type="reset">Show all</button></form>', rules


def _checked(name: str, value: str) -> str:
    return f'input[name="{name}"][value="{value}"]:checked'


def _chosen(name: str, value: str) -> str:
    return f".repro-claims:has({_checked(name, value)})"


def _group(name: str, legend: str, options: dict, all_text: str | None) -> str:
    """Return a row of radio buttons; the first is chosen."""
    buttons = {"all": (all_text, None), **options} if all_text else options
    text = f"<fieldset><legend>{html.escape(legend)}</legend>"
    for place, (value, (words, count)) in enumerate(buttons.items()):
        state = " checked" if place == 0 else ""
        shown = "" if count is None else f" <small>({count})</small>"
        button = f'<input type="radio" name="{name}" value="{value}"{state}>'
        text += f"<label>{button} {html.escape(words)}{shown}</label>"
    return text + "</fieldset>"


def _colours() -> str:
    """Return the colours of the signs, translucent so that they suit light and dark mode."""
    rules = ""
    for verdict, colour in COLOURS.items():
        shade = f"rgba({','.join(map(str, colour))},.32)"
        rules += f".repro-claims .{_slug(verdict)}:is(.sign,.chip){{background:{shade}}}\n"
    return rules


def _classes(part: str, claim: Claim, cells: dict, sides: list[str]) -> str:
    verdicts = [f"side{n}-{_slug(cells[claim.id, s].verdict)}" for n, s in enumerate(sides)]
    return " ".join([f"part-{_slug(part)}", *verdicts])


def _matrix(part: str, claims: list[Claim], cells: dict, sides: list[str]) -> str:
    """Return one part of the matrix: a row for each side, a sign for each claim."""
    rows = ""
    for side in sides:
        if all(cells[claim.id, side].verdict == NOT_TESTABLE for claim in claims):
            continue
        signs = ""
        for claim in claims:
            verdict = cells[claim.id, side].verdict
            label = f"{claim.id}, {html.escape(_short(side, sides))}: {verdict}"
            classes = f"sign {_slug(verdict)} {_classes(part, claim, cells, sides)}"
            signs += f'<td><a class="{classes}" href="#claim-{claim.id}" tabindex="-1"'
            signs += f' title="{label}" aria-label="{label}">{SIGNS[verdict]}</a></td>'
        rows += f'<tr><th scope="row">{html.escape(_short(side, sides))}</th>{signs}</tr>'
    return (
        f'<table class="claim part-{_slug(part)}"><caption>{html.escape(part)}</caption>'
        f"<tbody>{rows}</tbody></table>"
    )


def _short(side: str, sides: list[str]) -> str:
    """Return the name of a side without its profile, if no other side has the same model."""
    model = side.partition(",")[0]
    is_only_one = sum(name.partition(",")[0] == model for name in sides) == 1
    return model if is_only_one else side


def _claim(part: str, claim: Claim, cells: dict, sides: list[str]) -> str:
    """Return a claim as a line with its signs, which opens to show the comparisons."""
    signs = "".join(_sign(side, cells[claim.id, side].verdict) for side in sides)
    where = html.escape(", ".join(claim.where))
    line = (
        f'<span class="signs">{signs}</span><span class="says">{html.escape(claim.text())}</span>'
    )
    line += f'<span class="where">{where}</span>'
    classes = f"claim {_classes(part, claim, cells, sides)}"
    return (
        f'<details class="{classes}"><summary>{line}</summary>'
        f'<div class="body" id="claim-{claim.id}">{_body(claim, cells, sides)}</div></details>'
    )


def _sign(side: str, verdict: str) -> str:
    label = html.escape(f"{TITLES.get(side, side)}: {verdict}", quote=True)
    sign = f'<span class="sign {_slug(verdict)}" role="img" title="{label}" aria-label="{label}">'
    return f"{sign}{SIGNS[verdict]}</span>"


def _body(claim: Claim, cells: dict, sides: list[str]) -> str:
    """Return a claim's quotes, value and note, then the verdict of every side that tests it."""
    text = "".join(
        f"<blockquote>“{html.escape(quote.strip())}” ({html.escape(place)})</blockquote>"
        for place, quote in claim.quotes.items()
    )
    if claim.value:
        value = f"{claim.value.replace('-', '−')} {claim.unit}".strip()
        text += f"<p>The paper: {value} ({html.escape(claim.quantity)}).</p>"
    if claim.note:
        text += f"<p>{html.escape(claim.note.strip())}</p>"
    tested = [side for side in sides if cells[claim.id, side].verdict != NOT_TESTABLE]
    lines = "".join(f"<li>{_verdict(side, cells[claim.id, side])}</li>" for side in tested)
    rest = [_short(side, sides) for side in sides if side not in tested]
    if rest:
        lines += f"<li>{NOT_TESTABLE}: {html.escape(', '.join(rest))}</li>"
    link = f'<a href="#claim-{claim.id}">Link to this claim</a>'
    if claim.notebook:
        link += f' · shown in <a href="{claim.notebook}.html">{claim.notebook}</a>'
    return f"{text}<ul>{lines}</ul><p><small>{link}</small></p>"


def _verdict(side: str, cell) -> str:
    """Return the verdict on a side, a summary, and its comparisons to open."""
    text = f'{html.escape(TITLES.get(side, side))}: <span class="chip {_slug(cell.verdict)}">'
    text += f"{SIGNS[cell.verdict]} {html.escape(said(cell))}</span>"
    if cell.pooled is not None and len(cell.rows) > 1:
        effect, low, high = (number(round(value, 6) + 0.0) for value in cell.pooled)
        text += f" mean effect in the claimed direction {effect} ({low} to {high})"
    ways = ", ".join(dict.fromkeys(way for way in cell.rows["interval"] if way))
    lines = "".join(f"<p>{_comparison(row)}</p>" for row in cell.rows.itertuples())
    shown = html.escape(cell.shows) + (f"; intervals: {ways}" if ways else "")
    return f'{text}<details class="rows"><summary>{shown}</summary>{lines}</details>'


def _comparison(row) -> str:
    """Return one comparison: its estimate, its own interval and the simultaneous one."""
    text = html.escape("; ".join(filter(None, [row.claim, row.runs])))
    if not pd.isna(row.estimate):
        text += f": <b>{number(row.estimate)}</b>"
        if not pd.isna(row.low) and row.low != row.high:
            text += f" ({number(row.low)} to {number(row.high)}"
            low, high = getattr(row, "low_joint", None), getattr(row, "high_joint", None)
            if low is not None and not pd.isna(low) and (low, high) != (row.low, row.high):
                text += f"; together {number(low)} to {number(high)}"
            text += ")"
    return f"{SIGNS[row.verdict]} {text}"


def _json_link(judged: pd.DataFrame, title: str) -> str:
    """Return a link that downloads everything: claims, quotes, verdicts and comparisons."""
    text = json.dumps(everything(judged), ensure_ascii=False)
    data = base64.b64encode(text.encode()).decode()
    file = _slug(title).replace("_", "-") + ".json"
    link = f'<a download="{file}" href="data:application/json;base64,{data}"'
    link += f' style="color:inherit">{file}</a>'
    return f'<p style="font-size:.8em;margin:.2em 0 1em">With every comparison: {link}</p>'


def _slug(text: str) -> str:
    return text.lower().replace(" ", "-").replace("§", "s").replace(".", "")
