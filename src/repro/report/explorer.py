"""The restoration explorer (§5, Figure 1): a slider over the share of parameters that is set back.

Everything is drawn here from committed records, at every measured share.
`book/_static/explorer.js` only moves it. Without this script, as in a notebook, the explorer shows
the share of the page.
"""

import json
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from repro import paper
from repro.report.diagrams import weight_record
from repro.report.html import Html
from repro.report.style import COLOURS, DARK_COLOURS, DARK_PAGE, thousands

WIDTH, HEIGHT = 360, 230  # of the curves, in units of their drawing
LEFT, RIGHT, TOP, BOTTOM = 34, 8, 12, 34
SMALL = (180, 130)  # of a histogram
UNITS_BAR = 9  # width of the bar of unchanged parameters
MERGED = 2  # bins of the record in a bar
# Paths around the origin, one for each level, as the markers of the other figures.
MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.6L4.4 3.4H-4.4z",
    "M0-5L4.4 0L0 5L-4.4 0z",
    "M0 4.6L4.4-3.4H-4.4z",
)
CSS = """
.repro-explorer{margin:0 0 1.2em;max-width:60rem}
.repro-explorer svg{width:100%;height:auto;font-size:11px;fill:currentColor}
.repro-explorer .parts{display:flex;flex-wrap:wrap;gap:1rem}
.repro-explorer .parts>*{flex:1 1 18rem;min-width:0}
.repro-explorer .histograms>*{flex:1 1 9.5rem;max-width:15rem}
.repro-explorer figure{margin:0}
.repro-explorer figcaption{font-size:.85em;text-align:left;color:inherit}
.repro-explorer input{width:100%;max-width:30rem;display:block}
.repro-explorer .axis{stroke:currentColor;opacity:.5;fill:none}
.repro-explorer .grid{stroke:currentColor;opacity:.15}
.repro-explorer .line{fill:none;stroke-width:1.8}
.repro-explorer .marker{stroke:currentColor;stroke-dasharray:4 3}
.repro-explorer .ring{fill:none;stroke:currentColor;stroke-width:1.8}
.repro-explorer .kept{fill:currentColor;opacity:.45}
.repro-explorer .back{fill:var(--explorer-back)}
.repro-explorer table{border-collapse:collapse;font-size:.85em;margin:0;color:inherit}
.repro-explorer thead svg{display:block;width:1em;margin-left:auto}
.repro-explorer :is(th,td){padding:.2em .35em;text-align:right;color:inherit;
  font-variant-numeric:tabular-nums;white-space:nowrap;background:none;border:0}
.repro-explorer tr[aria-current] :is(th,td){font-weight:bold;
  box-shadow:inset 0 1px currentColor,inset 0 -1px currentColor}
"""


@dataclass(frozen=True)
class Bars:
    """Histograms at one share: percent of the parameters, first those that are unchanged.

    `tuned` is the histogram of the fine-tuned model, `back` its part that is set back, and
    `restored` that of the restored model.
    """

    tuned: np.ndarray
    back: np.ndarray
    restored: np.ndarray
    change_percent: float


def explorer(means: pd.DataFrame, model: str, title: str, percent: float) -> Html:
    """Return the explorer of a model's restored runs on the most facts, in domain.

    Args:
        means: of `summary.means`, restored runs.
        model: its name in the registry, under which its weights are recorded.
        title: its name for readers.
        percent: the share that is shown first.
    """
    rows = means[(means["split"] == "test") & (means["train_level"] >= 0)]
    if rows.empty:
        return Html('<p class="repro-note">No run was restored.</p>', "Nothing to explore")
    rows = rows[rows["size_label"] != "All"]
    size = rows["train_size"].max()
    rows = rows[rows["train_size"] == size]
    table = rows.pivot_table(index="restored_percent", columns="train_level", values="accuracy")
    record = weight_record(model)
    bars = {share: _bars(record, share) for share in table.index}
    first = int(np.argmin(np.abs(table.index.to_numpy() - percent)))
    data = _script_data(table, bars)
    text = json.dumps(data).replace("<", "\\u003c")  # no tag within a script
    caption = f"{title} trained on {thousands(str(size))} facts of a level, in-domain test facts"
    parts = [
        f"<style>{CSS}{_colours()}</style>",
        f'<section class="repro-explorer" aria-label="Restoration explorer: {escape(title)}">',
        _slider(table, first, data["shares"][first]),
        f'<p class="says" role="status">{data["says"][first]}</p>',
        f'<div class="parts"><figure>{_curves(table, first)}',
        f"<figcaption>Acc (%) of {escape(caption)}.</figcaption></figure>",
        f"<div>{_table(table, first)}</div></div>",
        _histograms(bars, table.index[first], record),
        f'<script type="application/json">{text}</script>',
        "</section>",
    ]
    return Html("".join(parts), "Restoration explorer")


def _script_data(table: pd.DataFrame, bars: dict[float, Bars | None]) -> dict[str, list]:
    """Return the texts, positions and paths that the script shows at each share."""
    return {
        "says": [_sentence(table, share, bars[share]) for share in table.index],
        "shares": [f"{share:g} % of the parameters restored" for share in table.index],
        "at": [round(_x(share, table), 1) for share in table.index],
        "rings": [[_text(_y(v, table)) for v in row] for row in table.to_numpy()],
        "histograms": [_paths(bars[share]) for share in table.index],
    }


def _slider(table: pd.DataFrame, first: int, says: str) -> str:
    name = "restored-share"
    label = f'<label for="{name}" hidden>Share of the parameters that is set back</label>'
    return (
        f'{label}<input type="range" id="{name}" min="0" max="{len(table) - 1}" step="1"'
        f' value="{first}" aria-valuetext="{says}" hidden>'
    )


def _sentence(table: pd.DataFrame, share: float, bars: Bars | None) -> str:
    """Return the effect of a share in words, which screen readers read when the slider moves."""
    undone = f", {bars.change_percent:.1f} % of the change undone" if bars else ""
    gain = table.loc[share] - table.iloc[0]
    levels = [
        f"level {level} {accuracy:.1f} % ({gain[level]:+.1f})".replace("-", "−")
        for level, accuracy in table.loc[share].dropna().items()
    ]
    return f"<b>{share:g} % restored</b>{undone}: {', '.join(levels)}."


# --- the curves and their table -------------------------------------------------------------------


def _x(share: float, table: pd.DataFrame) -> float:
    """Return the position of a share on a square-root scale, which gives small shares room."""
    return LEFT + (WIDTH - LEFT - RIGHT) * (share / table.index.max()) ** 0.5


def _y(accuracy: float, table: pd.DataFrame) -> float:
    top = _top(table)
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * accuracy / top


def _top(table: pd.DataFrame) -> float:
    return 10 * np.ceil(np.nanmax(table.to_numpy()) / 10 + 0.01)


def _text(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.1f}"


def _grid(table: pd.DataFrame) -> list[str]:
    """Draw the grid, its numbers, and the title of the axis."""
    parts = []
    for accuracy in np.arange(0, _top(table) + 1, 20 if _top(table) > 50 else 10):
        y = _y(accuracy, table)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{accuracy:g}</text>')
    for share in table.index:
        x = _x(share, table)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        if share in (0, 1, 5) or share >= 10:
            place = f'x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle"'
            parts.append(f"<text {place}>{share:g}</text>")
    label = f'x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 4}" text-anchor="middle"'
    return [*parts, f"<text {label}>Restored parameters (%, square-root scale)</text>"]


def _curves(table: pd.DataFrame, first: int) -> str:
    """Draw one line per training level, and the marker at the share number `first`."""
    parts = _grid(table)
    for level, run in table.items():
        points = [(_x(share, table), _y(v, table)) for share, v in run.dropna().items()]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="line l{level}" d="{path}"/>')
        marks = "".join(f'<path transform="translate({x:.1f} {y:.1f})" d="{MARKS[level]}"/>'
                        for x, y in points)  # fmt: skip
        parts.append(f'<g class="mark l{level}">{marks}</g>')
    at, share = _x(table.index[first], table), table.iloc[first]
    rings = "".join(f'<circle class="ring" r="7" cy="{_text(_y(v, table))}"/>' for v in share)
    line = f'<path class="marker" d="M0 {TOP}V{HEIGHT - BOTTOM}"/>'
    parts.append(f'<g class="moving" transform="translate({at:.1f} 0)">{line}{rings}</g>')
    alt = "Accuracy against the restored share, one line per training level, as in the table"
    return (
        f'<svg role="img" aria-label="{alt}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
    )


def _table(table: pd.DataFrame, first: int) -> str:
    """Return shares by levels, with the mark of each level's line in its heading."""
    heads = "".join(
        f'<th scope="col"><svg viewBox="-6 -6 12 12" aria-hidden="true">'
        f'<path class="mark l{level}" d="{MARKS[level]}"/></svg> level {level}</th>'
        for level in table
    )
    rows = ""
    for place, (share, row) in enumerate(table.iterrows()):
        here = ' aria-current="true"' if place == first else ""
        cells = "".join(f"<td>{'–' if np.isnan(v) else f'{v:.2f}'}</td>" for v in row)
        rows += f'<tr{here}><th scope="row">{share:g} %</th>{cells}</tr>'
    box = '<div class="wide" tabindex="0" role="region" aria-label="Acc by restored share">'
    head = f'<thead><tr><th scope="col">Restored</th>{heads}</tr></thead>'
    return f"{box}<table>{head}<tbody>{rows}</tbody></table></div>"


# --- the three histograms of Figure 1 -------------------------------------------------------------


def _bars(record: dict | None, share: float) -> Bars | None:
    """Return the histograms at a share; None if there is no record of a run, or of this share.

    Nothing is set back at the share 0.
    """
    if record is None:
        return None
    counts_by_share = {counts["percent"]: counts for counts in record["shares"]}
    counts = counts_by_share.get(share, record["shares"][0] if share == 0 else None)
    if counts is None:
        return None
    changed, unchanged = np.array(counts["parameters"]), counts["unchanged"]
    back = np.array(counts["restored"]) * (share > 0)
    total = changed.sum() + unchanged

    def percent(first_bar: float, bins: np.ndarray) -> np.ndarray:
        merged = np.add.reduceat(bins, np.arange(0, len(bins), MERGED))
        return 100 * np.array([first_bar, *merged]) / total

    return Bars(
        tuned=percent(unchanged, changed),
        back=percent(0, back),
        restored=percent(unchanged + back.sum(), changed - back),
        change_percent=counts["change_percent"] if share else 0.0,
    )


def _histograms(bars: dict, share: float, record: dict | None) -> str:
    """Draw pre-trained, fine-tuned and restored weights by how far they are from pre-trained."""
    shown = bars[share] or next(filter(None, bars.values()), None)
    if record is None or shown is None:
        text = "The weights of this model's runs were not kept, so their changes are not shown."
        return f'<p class="repro-note">{text}</p>'
    paths = _paths(bars[share]) or ["", "", ""]
    unchanged = np.zeros_like(shown.tuned)
    unchanged[0] = 100.0
    panels = (
        ("pre-trained", _path(unchanged), "", "every parameter is unchanged"),
        ("fine-tuned", paths[0], paths[1], "in colour: those that the share sets back"),
        ("restored", paths[2], "", "those set back are unchanged again"),
    )
    figures = "".join(_histogram(*panel) for panel in panels)
    about = (
        f"Parameters (%, square-root scale) by relative change |s − p| / |p|; run on"
        f" {record['size']:,} facts of level {record['level']}."
    )
    return f'<div class="parts histograms">{figures}</div><p class="repro-note">{about}</p>'


def _histogram(name: str, tuned: str, back: str, about: str) -> str:
    """Draw one histogram from the paths of its bars: `back` is set back, `tuned` is not."""
    width, height = SMALL
    labels = "".join(
        f'<text x="{x:.1f}" y="{height - 3}" text-anchor="middle">{text}</text>'
        for x, text in ((UNITS_BAR, "0"), *((_bar_x(i), t) for i, t in _decades()))
    )
    base = f'<path class="axis" d="M2 {height - 16}H{width - 2}"/>'
    bars = f'<path class="kept" d="{tuned}"/><path class="back" d="{back}"/>'
    label = f"Histogram of relative changes, {name}: {about}"
    svg = (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {height}">'
        f"{bars}{base}{labels}</svg>"
    )
    return f'<figure class="{name}">{svg}<figcaption><b>{name}</b>: {about}</figcaption></figure>'


def _decades() -> list[tuple[float, str]]:
    return [(1 + 2 * 2, "10⁻⁵"), (1 + 2 * 5, "10⁻²"), (1 + 2 * 8, "10")]


def _bar_x(number: float) -> float:
    """Return the left end of a bar; bar 0, of unchanged parameters, is apart from the others."""
    width = (SMALL[0] - UNITS_BAR * 3) / 20
    return 4 if number == 0 else UNITS_BAR * 2 + (number - 1) * width


def _paths(bars: Bars | None) -> list[str] | None:
    """Return the outlines of fine-tuned, set back and restored at a share."""
    return [_path(bar) for bar in (bars.tuned, bars.back, bars.restored)] if bars else None


def _path(percents: np.ndarray) -> str:
    floor = SMALL[1] - 16
    path = ""
    for number, percent in enumerate(percents):
        if percent > 0:
            height = (floor - 6) * (percent / 100) ** 0.5
            width = UNITS_BAR if number == 0 else (SMALL[0] - UNITS_BAR * 3) / 20 - 0.6
            path += f"M{_bar_x(number):.1f} {floor}v-{height:.1f}h{width:.1f}v{height:.1f}z"
    return path


def _colours() -> str:
    """Return the colours of the levels and of what is set back, on a light and on a dark page."""
    light, dark = "--explorer-back:#c1440e;", "--explorer-back:#ff9d6f;"
    for level in paper.LEVELS:
        light += f"--explorer-{level}:{COLOURS[level]};"
        dark += f"--explorer-{level}:{DARK_COLOURS[COLOURS[level]]};"
    rules = f".repro-explorer{{{light}}}{DARK_PAGE.format('.repro-explorer')}{{{dark}}}"
    for level in paper.LEVELS:
        colour = f"var(--explorer-{level})"
        rules += f".repro-explorer .line.l{level}{{stroke:{colour}}}"
        rules += f".repro-explorer .mark.l{level}{{fill:{colour}}}"
    return rules
