"""Tables in the paper's layout, drawn alike for the paper's numbers and for ours.

Every table is an `Html` with a link that downloads the frame behind it. Backgrounds are translucent
and the text keeps the page's colour, so a table reads in light and in dark mode. What the shading
says is also said without colour: a gain is bold and has a plus sign, a loss has a minus sign. A
cell that cannot exist is an en dash, never 0.
"""

import base64
import hashlib
import html
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from repro.statistics.summary import size_names

FULL_SHADE = 20.0  # points of difference at which the shading is darkest, in every table


GREEN, RED = (0, 150, 90), (215, 60, 50)


MARK = "border-top:2px solid;border-bottom:2px solid;"


CELL = {
    "text-align": "right",
    "white-space": "nowrap",
    "padding": ".2em .5em",
    "line-height": "1.2",
    "vertical-align": "top",
}


STAYS = "position:sticky;left:0;display:inline-block;max-width:min(100%,85vw)"


FRAME = [
    {"selector": "", "props": "font-size:.85em;margin:0;width:auto"},
    {"selector": "caption", "props": "caption-side:top;text-align:left;font-weight:bold"},
    {"selector": ".title", "props": STAYS},
    {"selector": "th", "props": "vertical-align:top;padding:.2em .5em"},
    {"selector": "th.col_heading", "props": "white-space:nowrap"},
    {"selector": "td small", "props": "font-size:.8em;font-weight:normal"},
    {"selector": "td span", "props": "font-size:.85em"},
]


@dataclass(frozen=True)
class Html:
    """A piece of a page; Jupyter shows it as HTML, a terminal shows its title."""

    html: str
    title: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """Return the title: the markup itself tells a reader nothing."""
        return f"<{self.title}>"


def table(frame: pd.DataFrame, title: str, decimals: int = 2) -> Html:
    """Return any frame as a table: floats with `decimals`, integers with separators."""
    if frame.columns.empty:
        return Html(f"<p>{html.escape(title)}: {ABSENT}</p>", title)
    rows = frame.reset_index(drop=True).rename(columns=lambda name: str(name).replace("_", " "))
    words = rows.map(lambda value: isinstance(value, str))
    style = words.replace({True: "text-align:left;white-space:normal;", False: ""})
    cells = rows.map(lambda value: _plain(value, decimals))
    return _styled(cells, style, title, frame, hide_index=True)


def beside(*parts: Html) -> Html:
    """Return tables side by side where the page is wide enough, else below each other."""
    boxes = "".join(f'<div style="max-width:100%;overflow-x:auto">{p.html}</div>' for p in parts)
    style = "display:flex;flex-wrap:wrap;gap:0 1.5em;align-items:flex-start"
    return Html(f'<div style="{style}">{boxes}</div>', " | ".join(p.title for p in parts))


def csv_link(frame: pd.DataFrame, name: str) -> Html:
    """Return a link that downloads `frame` as CSV; the data is in the link, so it works offline."""
    data = base64.b64encode(frame.to_csv(index=False).encode()).decode()
    file = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".csv"
    # The text's own colour: a theme's link colour is faint on the ground it gives to outputs.
    link = f'<a download="{file}" href="data:text/csv;charset=utf-8;base64,{data}"'
    link += f' style="color:inherit">{file}</a>'
    return Html(f'<p style="font-size:.8em;margin:.2em 0 1em">Download: {link}</p>', file)


def shade(difference: float) -> str:
    """Return the CSS of a cell so many points above or below the row without restoration."""
    if pd.isna(difference) or round(difference, 2) == 0:
        return ""
    alpha = 0.08 + 0.37 * min(abs(difference) / FULL_SHADE, 1) ** 0.5
    red, green, blue = GREEN if difference > 0 else RED
    weight = "font-weight:bold;" if difference > 0 else ""
    return f"background-color:rgba({red},{green},{blue},{alpha:.2f});{weight}"


def in_size_order(frame: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Rows of fine-tuned models, by size ("All" last), with the size's name as `group`."""
    rows = frame[frame["train_level"] >= 0]
    names = size_names(rows).map(lambda name: f"{int(name):,}" if name.isdecimal() else name)
    rows = rows.assign(group=names, whole=names == "All", size=rows["train_size"])
    # Whole pools differ in size by level, yet are one block of the table.
    rows["size"] = rows["size"].mask(rows["whole"], 0)
    return rows.sort_values(["whole", "size", *order], kind="stable")


def change_from_unrestored(rows: pd.DataFrame, keys: list[str]) -> tuple[pd.DataFrame, pd.Series]:
    """Return rows, and how far each restored one is from its own without restoration."""
    before = rows.loc[rows["restored_percent"] == 0, [*keys, "accuracy"]]
    rows = rows.merge(before.rename(columns={"accuracy": "before"}), on=keys, how="left")
    return rows, (rows["accuracy"] - rows["before"]).where(rows["restored_percent"] != 0)


def in_model_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by model in order of appearance, and within a model by `order`."""
    place = rows["group"].map({model: i for i, model in enumerate(rows["group"].unique())})
    return rows.assign(place=place).sort_values(["place", "order"], kind="stable")


def restored_label(share: float, mark: float | None) -> str:
    """Return the name of a row: a restored share in percent, with a sign where it is marked."""
    return ("▸ " if share == mark else "") + (f"{share:g}%" if share else "0")


def trained_on(level: int) -> str:
    """Return the paper's name of the training facts of a level, as HTML."""
    return f"D<sub>train-{level}</sub>"


def tested_on(level: str) -> str:
    """Return the paper's name of the accuracy on a level ("0" to "4"), or of their mean."""
    return "Acc" if level == "mean" else f"Acc<sub>{level}</sub>"


def cell_texts(rows: pd.DataFrame) -> list[str]:
    """Return the text of each cell: accuracy, and spread, difference, low, high where known."""
    wanted = rows.reindex(columns=["accuracy", "spread", "difference", "low", "high"])
    return [_cell_text(*values) for values in wanted.itertuples(index=False)]


def _cell_text(value: float, spread: float, difference: float, low: float, high: float) -> str:
    """One cell: value with spread as subscript, then change and 95 % interval in small print."""
    if pd.isna(value):
        return ABSENT
    text = f"{value:.2f}" + ("" if pd.isna(spread) else f"<sub>{spread:.2f}</sub>")
    if not pd.isna(difference):
        text += f"<br><span>{signed(difference)}</span>"
    if not pd.isna(low):
        text += f"<br><small>{low:.1f}–{high:.1f}</small>"
    return text


def _plain(value: object, decimals: int) -> str:
    if isinstance(value, float | np.floating):
        tiny = 1e-9 < abs(value) < 10**-decimals
        text = f"{value:.2g}" if tiny else f"{value:.{decimals}f}"
        return ABSENT if np.isnan(value) else text.replace("-", "−", 1) if value < 0 else text
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return ABSENT if value is None else html.escape(str(value))


def grid(rows, columns, corner: tuple[str, str], title: str, source: pd.DataFrame) -> Html:
    """Lay out rows (group, row, column, text, css) with every one of `columns`, empty or not."""
    order = pd.MultiIndex.from_frame(rows[["group", "row"]].drop_duplicates())
    labels = list(columns)
    place = {"index": ["group", "row"], "columns": "column"}
    cells, style = (
        rows.astype({name: object}).pivot(values=name, **place) for name in ("text", "css")
    )
    cells = cells.reindex(index=order, columns=labels).astype(object).fillna(ABSENT)
    style = style.reindex(index=order, columns=labels).astype(object).fillna("")
    if labels and isinstance(labels[0], tuple):
        cells.columns = style.columns = pd.MultiIndex.from_tuples(labels)
    cells.columns = style.columns = cells.columns.set_names([None] * cells.columns.nlevels)
    cells.index.names = style.index.names = corner
    if not corner[0]:
        cells, style = cells.droplevel(0), style.droplevel(0)
    return _styled(cells, style, title, source)


def _styled(cells, style, title: str, source: pd.DataFrame, hide_index: bool = False) -> Html:
    digest = hashlib.sha256((title + cells.to_csv() + style.to_csv()).encode()).hexdigest()[:8]
    # On a narrow screen the table scrolls and its title stays.
    caption = f'<span class="title">{html.escape(title)}</span>'
    styler = Styler(cells, uuid=digest, cell_ids=False, caption=caption)
    styler.set_table_attributes('class="dataframe"').set_properties(**CELL)
    styler.apply(lambda _: style, axis=None).set_table_styles(FRAME)
    if hide_index:
        styler.hide(axis="index")
    link = csv_link(source, title)
    return Html(f'<div style="overflow-x:auto">{styler.to_html()}</div>{link.html}', title)


ABSENT = "–"  # what cannot exist, never written as 0


def signed(value: float, decimals: int = 2) -> str:
    """Return a number with its sign, with a true minus sign, and no sign when it rounds to 0."""
    rounded = round(value, decimals) + 0.0
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{decimals}f}"
