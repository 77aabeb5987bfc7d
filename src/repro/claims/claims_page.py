"""The page of claims: one row a claim, with filters that need neither scripts nor a network.

The filters are radio buttons; the style sheet beside the table hides the rows that the chosen one
leaves out (`:has`, which browsers know since 2023; an older one shows all rows). A verdict is a
sign and a word, so the colour says nothing that is not also written.
"""

import html

import pandas as pd

from repro.claims.claims import VERDICTS, Claim, load, number, table
from repro.report.html import ABSENT, GREEN, RED, Html, csv_link

SIGNS = dict(zip(VERDICTS, ("✓", "✗", "?", ABSENT), strict=True))
PARTS = ("Abstract", "§1", "§3", "§4", "§5", "§6", "App.")
TITLES = {"paper": "the paper's tables"}
CSS = f"""
.ledger fieldset {{border:0;padding:0;margin:.1em 0}}
.ledger legend {{float:left;min-width:12em;padding:0;font-size:1em;font-weight:bold}}
.ledger form {{font-size:.85em;margin-bottom:1em}}
.ledger label {{margin-right:.8em;white-space:nowrap;display:inline-block}}
.ledger table.claims {{font-size:.85em;width:100%;border-collapse:collapse}}
.ledger table.claims > tbody > tr > td, .ledger th {{vertical-align:top;text-align:left;
  padding:.4em .6em;border-bottom:1px solid rgba(128,128,128,.4)}}
.ledger td.what {{min-width:16em}}
.ledger .verdict {{white-space:nowrap;padding:0 .4em;border-radius:.3em}}
.ledger .supported {{background:rgba({",".join(map(str, GREEN))},.22)}}
.ledger .contradicted {{background:rgba({",".join(map(str, RED))},.28);font-weight:bold}}
.ledger .undecided, .ledger .not-tested {{border:1px solid rgba(128,128,128,.5)}}
.ledger ul {{list-style:none;margin:0;padding:0}}
.ledger li {{margin:0 0 .3em}}
.ledger small, .ledger summary {{font-size:.9em}}
.ledger details p {{font-size:.85em;line-height:1.35;margin:.2em 0 .2em 1em;text-indent:-1em}}
.ledger td a {{color:inherit}}
.ledger tr:target {{outline:2px solid}}
"""


def page(found: pd.DataFrame, title: str) -> Html:
    """Return `claims.findings` as a table with filters, and a link that downloads it."""
    sides = list(found["side"].unique())
    cells = {(row.id, row.side): row for row in found.itertuples()}
    body = "".join(
        _row(claim, {side: cells[claim.id, side] for side in sides}, sides)
        for claim in load().values()
    )
    head = "<tr><th>Claim</th><th>Verdicts</th></tr>"
    rows = f'<table class="claims"><thead>{head}</thead><tbody>{body}</tbody></table>'
    end = "<p><small>End of the list. What the filters leave out is not shown.</small></p>"
    filters, rules = _filters(found, sides)
    text = f'<div class="ledger"><style>{CSS}{rules}</style>{filters}{rows}{end}</div>'
    return Html(text + csv_link(table(found), title).html, title)


def _filters(found: pd.DataFrame, sides: list[str]) -> tuple[str, str]:
    """Return the form and the style rules of its buttons."""
    parts = {_slug(part): (part, _in(part)) for part in PARTS}
    groups = [("part", "Part of the paper", parts)]
    for place, side in enumerate(sides):
        counts = found.loc[found["side"] == side, "verdict"].value_counts()
        options = {_slug(v): (f"{SIGNS[v]} {v}", counts.get(v, 0)) for v in VERDICTS}
        groups.append((f"side{place}", TITLES.get(side, side), options))
    form, rules = "", ""
    for name, legend, options in groups:
        every = len(load())
        form += f"<fieldset><legend>{html.escape(legend)}</legend>"
        form += _button(name, "all", "all", every, checked=True)
        for value, (text, count) in options.items():
            form += _button(name, value, text, count)
            chosen = f'.ledger:has(input[name="{name}"][value="{value}"]:checked)'
            rules += f"{chosen} tr.claim:not(.{name}-{value}){{display:none}}\n"
        form += "</fieldset>"
    return f'<form>{form}<button type="reset">Show all</button></form>', rules


def _button(name: str, value: str, text: str, count: int, checked: bool = False) -> str:
    state = " checked" if checked else ""
    button = f'<input type="radio" name="{name}" value="{value}"{state}>'
    return f"<label>{button} {html.escape(text)} <small>({count})</small></label>"


def _in(part: str) -> int:
    return sum(part in _parts(claim) for claim in load().values())


def _parts(claim: Claim) -> list[str]:
    return [p for p in PARTS if any(w.split(".")[0] == p.rstrip(".") for w in claim.where)]


def _row(claim: Claim, cells: dict, sides: list[str]) -> str:
    classes = [f"part-{_slug(part)}" for part in _parts(claim)]
    classes += [f"side{n}-{_slug(cells[side].verdict)}" for n, side in enumerate(sides)]
    where = ", ".join(claim.where)
    link = f'<a href="#claim-{claim.id}" title="{claim.id}">#</a>'
    said = f"{html.escape(claim.text())}<br><small>{html.escape(where)} {link}</small>"
    if claim.value:
        value = f"{claim.value.replace('-', '−')} {claim.unit}".strip()
        said += f"<br><small>The paper: {value} ({html.escape(claim.quantity)}).</small>"
    if claim.note:
        said += f"<br><small>{html.escape(claim.note)}</small>"
    if claim.notebook:
        said += f'<br><small>Shown in <a href="{claim.notebook}.html">{claim.notebook}</a></small>'
    verdicts = "".join(f"<li>{_verdict(side, cells[side])}</li>" for side in sides)
    start = f'<tr class="claim {" ".join(classes)}" id="claim-{claim.id}">'
    return f'{start}<td class="what">{said}</td><td><ul>{verdicts}</ul></td></tr>'


def _verdict(side: str, cell) -> str:
    chip = f"{SIGNS[cell.verdict]} {cell.verdict}"
    text = f'{html.escape(TITLES.get(side, side))}: <span class="verdict {_slug(cell.verdict)}">'
    text += f"{chip}</span>"
    if cell.rows.empty:
        return text
    lines = "".join(f"<p>{_comparison(row)}</p>" for row in cell.rows.itertuples())
    return f"{text}<details><summary>{html.escape(cell.shows)}</summary>{lines}</details>"


def _comparison(row) -> str:
    text = html.escape("; ".join(filter(None, [row.claim, row.runs])))
    if not pd.isna(row.estimate):
        text += f": <b>{number(row.estimate)}</b>"
        if not pd.isna(row.low) and row.low != row.high:
            text += f" ({number(row.low)} to {number(row.high)})"
    return f"{SIGNS[row.verdict]} {text}"


def _slug(text: str) -> str:
    return text.lower().replace(" ", "-").replace("§", "s").replace(".", "")
