"""Tables as HTML: one renderer for notebooks and pages, for the paper's numbers and for ours.

Every table is an `Html` with a link that downloads its frame. Backgrounds are translucent and the
text has the colour of the page, so a table is readable in light and in dark mode. Shading is never
the only sign: a gain is bold and has a plus sign, a loss has a minus sign. A cell that cannot exist
is an en dash, never 0. Spread and interval of a number are in the table and in the download; a
check box shows them.
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

ABSENT = "–"  # the text of a cell that cannot exist, never 0
FULL_SHADE = 20.0  # points of difference with the darkest shading, in every table
GREEN, RED = (0, 150, 90), (215, 60, 50)
MARK = "border-top:2px solid;border-bottom:2px solid;"
CELL = {
    "text-align": "right",
    "white-space": "nowrap",
    "padding": ".2em .5em",
    "line-height": "1.2",
    "vertical-align": "top",
}
# The names of a row stay in view while the table scrolls, so they need a background.
GROUND = "var(--pst-color-background,var(--jp-layout-color0,Canvas))"
CSS = f"""
.repro-table{{margin:0 0 1em}}
.repro-table>.scroll{{overflow-x:auto;max-width:100%;background:
  linear-gradient(90deg,{GROUND} 30%,transparent) left/2em 100% no-repeat local,
  linear-gradient(270deg,{GROUND} 30%,transparent) right/2em 100% no-repeat local,
  linear-gradient(90deg,#80808099,transparent) left/.6em 100% no-repeat scroll,
  linear-gradient(270deg,#80808099,transparent) right/.6em 100% no-repeat scroll}}
.repro-table table{{font-size:.85em;margin:0;width:auto;border-collapse:collapse}}
.repro-table caption{{caption-side:top;text-align:left;font-weight:bold;padding:.2em 0}}
.repro-table .title{{position:sticky;left:0;display:inline-block;max-width:min(100%,85vw)}}
.repro-table th{{vertical-align:top;padding:.2em .5em;text-align:left}}
.repro-table thead th{{white-space:nowrap;border-bottom:1px solid}}
.repro-table th.col_heading{{text-align:right}}
.repro-table th.words{{text-align:left}}
.repro-table tbody th,.repro-table thead th.corner{{position:sticky;left:0;background:{GROUND}}}
.repro-table.two tbody th.level0,.repro-table.two th.corner.level0{{position:static}}
.repro-table td small{{font-size:.8em;font-weight:normal}}
.repro-table td .change{{font-size:.85em}}
.repro-table .fine{{font-size:.8em;margin:.2em 0}}
.repro-table:not(:has(.show-details:checked)) .detail{{display:none}}
.repro-table .scroll:focus-visible{{outline:2px solid}}
"""


@dataclass(frozen=True)
class Html:
    """A piece of a page; Jupyter shows it as HTML, a terminal shows its title."""

    html: str
    title: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """Return the title, because a reader cannot read the markup."""
        return f"<{self.title}>"


def table(frame: pd.DataFrame, title: str, decimals: int = 2) -> Html:
    """Return any frame as a table: floats with `decimals`, integers with separators."""
    if frame.columns.empty:
        return Html(f'<p class="repro-note">{html.escape(title)}: {ABSENT}</p>', title)
    rows = frame.reset_index(drop=True).rename(columns=_heading)
    words = rows.map(lambda value: isinstance(value, str))
    style = words.replace({True: "text-align:left;white-space:normal;", False: ""})
    cells = rows.map(lambda value: _plain(value, decimals))
    return _styled(cells, style, title, frame, hide_index=True)


def _heading(name: object) -> str:
    """Return the name of a column as escaped text."""
    return html.escape(str(name).replace("_", " "))


def grid(rows, columns, corner: tuple[str, str], title: str, source: pd.DataFrame) -> Html:
    """Return a table from cells (group, row, column, text, css).

    Args:
        rows: the cells.
        columns: all columns of the table, also those without a cell.
        corner: names of the two index columns; if the first is empty, there is only the second.
        title: of the table.
        source: the frame that the link under the table downloads.

    Raises:
        ValueError: a cell has two values.
    """
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


def differences(
    frame: pd.DataFrame, corner: tuple[str, str], title: str, source: pd.DataFrame
) -> Html:
    """Return a table of differences, ours less the paper's.

    `frame` has group, row, column and difference (points). Rows and columns are in the order of the
    frame; a cell is shaded by its difference. The link downloads `source`.
    """
    text = frame["difference"].map(lambda value: signed(value) if pd.notna(value) else ABSENT)
    rows = frame.assign(text=text, css=frame["difference"].map(shade))
    return grid(rows, dict.fromkeys(frame["column"]), corner, title, source)


def beside_paper(
    ours: pd.DataFrame, theirs: pd.DataFrame, keys: list[str], value: str
) -> pd.DataFrame:
    """Return keys, ours, paper and difference of `value`, for the cells that both frames have.

    Keys that the paper's frame lacks, such as the training level, are not compared.
    """
    shared = [key for key in keys if key in theirs]
    joined = ours[[*keys, value]].merge(theirs[[*shared, value]], on=shared)
    joined = joined.rename(columns={f"{value}_x": "ours", f"{value}_y": "paper"})
    return joined.assign(difference=joined["ours"] - joined["paper"])


def csv_link(frame: pd.DataFrame, name: str) -> Html:
    """Return a link that downloads `frame` as CSV; the data is in the link, so it works offline."""
    data = base64.b64encode(frame.to_csv(index=False).encode()).decode()
    file = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".csv"
    # In the colour of the text, because the theme's link colour is faint on the background of
    # outputs.
    link = f'<a download="{file}" href="data:text/csv;charset=utf-8;base64,{data}"'
    link += f' style="color:inherit">{file}</a>'
    return Html(f'<p class="fine">Download: {link}</p>', file)


def shade(difference: float) -> str:
    """Return the CSS of a cell that differs from the row without restoration by some points."""
    if pd.isna(difference) or round(difference, 2) == 0:
        return ""
    alpha = 0.08 + 0.37 * min(abs(difference) / FULL_SHADE, 1) ** 0.5
    red, green, blue = GREEN if difference > 0 else RED
    weight = "font-weight:bold;" if difference > 0 else ""
    return f"background-color:rgba({red},{green},{blue},{alpha:.2f});{weight}"


def signed(value: float, decimals: int = 2) -> str:
    """Return a number with its sign (a true minus sign), without a sign if it rounds to 0."""
    rounded = round(value, decimals) + 0.0
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{decimals}f}"


# --- rows and cells that several results share ----------------------------------------------------


def in_size_order(frame: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Return rows of fine-tuned models by size ("All" last), with the size's name as `group`."""
    rows = frame[frame["train_level"] >= 0]
    names = size_names(rows).map(lambda name: f"{int(name):,}" if name.isdecimal() else name)
    rows = rows.assign(group=names, whole=names == "All", size=rows["train_size"])
    # "All" is one block of the table, although its size differs between levels.
    rows["size"] = rows["size"].mask(rows["whole"], 0)
    return rows.sort_values(["whole", "size", *order], kind="stable")


def in_model_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows by model in order of appearance, and within a model by `order`."""
    place = rows["group"].map({model: i for i, model in enumerate(rows["group"].unique())})
    return rows.assign(place=place).sort_values(["place", "order"], kind="stable")


def change_from_unrestored(rows: pd.DataFrame, keys: list[str]) -> tuple[pd.DataFrame, pd.Series]:
    """Return rows, and the difference of each restored one from the same run unrestored."""
    before = rows.loc[rows["restored_percent"] == 0, [*keys, "accuracy"]]
    rows = rows.merge(before.rename(columns={"accuracy": "before"}), on=keys, how="left")
    return rows, (rows["accuracy"] - rows["before"]).where(rows["restored_percent"] != 0)


def restored_label(share: float, mark: float | None) -> str:
    """Return the name of a row: the restored share in percent, with a sign if it is marked."""
    return ("▸ " if share == mark else "") + (f"{share:g}%" if share else "0")


def trained_on(level: int) -> str:
    """Return the paper's name of the training facts of a level, as HTML."""
    return f"D<sub>train-{level}</sub>"


def tested_on(level: str) -> str:
    """Return the paper's name of the accuracy on a level ("0" to "4"), or of their mean."""
    return "Acc" if level == "mean" else f"Acc<sub>{level}</sub>"


def cell_texts(rows: pd.DataFrame) -> list[str]:
    """Return the text of each cell: accuracy, and if known spread, difference, low and high."""
    cells = rows.reindex(columns=["accuracy", "spread", "difference", "low", "high"])
    return [_cell_text(*values) for values in cells.itertuples(index=False)]


def details(text: str) -> str:
    """Return small text on a line of its own in a cell, which the reader can show and hide."""
    return f'<span class="detail"><br><small>{text}</small></span>'


def _cell_text(value: float, spread: float, difference: float, low: float, high: float) -> str:
    """Return value and change; behind the check box the spread and the 95 % interval."""
    if pd.isna(value):
        return ABSENT
    text = f"{value:.2f}"
    if not pd.isna(spread):
        text += f'<sub class="detail">{spread:.2f}</sub>'
    if not pd.isna(difference):
        text += f'<br><span class="change">{signed(difference)}</span>'
    return text + ("" if pd.isna(low) else details(f"{low:.1f}–{high:.1f}"))


def _plain(value: object, decimals: int) -> str:
    """Return one value of any frame as escaped text."""
    if isinstance(value, float | np.floating):
        tiny = 1e-9 < abs(value) < 10**-decimals
        text = f"{value:.2g}" if tiny else f"{value:,.{decimals}f}"
        return ABSENT if np.isnan(value) else text.replace("-", "−", 1) if value < 0 else text
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return ABSENT if value is None else html.escape(str(value))


# --- the renderer ---------------------------------------------------------------------------------


def _styled(cells, style, title: str, source: pd.DataFrame, hide_index: bool = False) -> Html:
    """Return cells of HTML with their CSS as a table in a box that scrolls."""
    digest = hashlib.sha256((title + cells.to_csv() + style.to_csv()).encode()).hexdigest()[:8]
    names = [] if hide_index else list(cells.index.names)
    cells, style = (part.rename_axis(index=[None] * part.index.nlevels) for part in (cells, style))
    # On a narrow screen the table scrolls and its title stays.
    caption = f'<span class="title">{html.escape(title)}</span>'
    styler = Styler(cells, uuid=digest, cell_ids=False, caption=caption)
    styler.set_table_attributes('class="dataframe"').set_properties(**CELL)
    styler.apply(lambda _: style, axis=None)
    if hide_index:
        styler.hide(axis="index")
    text = _headings(styler.to_html(), names, cells.columns.nlevels)
    if hide_index:  # headings are aligned as their columns: words left, numbers right
        for place, css in enumerate(style.iloc[0] if len(style) else ()):
            if "left" in css:
                text = text.replace(f"level0 col{place}", f"level0 col{place} words", 1)
    kind = "repro-table two" if len(names) > 1 else "repro-table"
    scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(title)}">'
    body = f"{_details_box(text)}{scroll}{text}</div><style>{CSS}</style>"
    return Html(f'<div class="{kind}">{body}{csv_link(source, title).html}</div>', title)


def _headings(text: str, names: list[str], column_levels: int) -> str:
    """Write the names of the index into the empty header cells of pandas, with their scope.

    pandas writes an empty cell over each index column in every row of headings. The first becomes
    the name, as high as all rows of headings, and the others are removed.
    """
    span = f' rowspan="{column_levels}"' if column_levels > 1 else ""
    heads = [
        f'<th class="corner level{i}" scope="col"{span}>{html.escape(name)}</th>'
        for i, name in enumerate(names)
    ]
    corners = iter(heads)
    text = re.sub(r'<th class="blank[^"]*"[^>]*>&nbsp;</th>\s*', lambda _: next(corners, ""), text)
    if 'class="corner' not in text:  # a table without columns has no rows of headings either
        text = re.sub(r"(<thead>\s*)(</thead>)", rf"\1<tr>{''.join(heads)}</tr>\2", text)
    text = re.sub(
        r'<th (id="[^"]*" )?class="col_heading', r'<th \1scope="col" class="col_heading', text
    )
    return re.sub(
        r'<th (id="[^"]*" )?class="row_heading', r'<th \1scope="row" class="row_heading', text
    )


def _details_box(text: str) -> str:
    """Return the check box that shows spreads and intervals, if the table has any."""
    if 'class="detail"' not in text:
        return ""
    box = '<input type="checkbox" class="show-details">'
    return f'<p class="fine"><label>{box} Show spread and 95 % interval</label></p>'
