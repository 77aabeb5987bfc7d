"""The paper's tables, drawn alike for the paper's numbers and for ours.

Every function takes a tidy frame and returns `Html`: a table in the paper's layout with a link
that downloads the frame behind it. Backgrounds are translucent and the text keeps the page's
colour, so a table reads in light and in dark mode. What the shading says is also said without
colour: a gain is bold and has a plus sign, a loss has a minus sign. A cell that cannot exist is
an en dash, never 0.
"""

import base64
import hashlib
import html
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from repro.book.overview import overview as overview
from repro.paper import LEVELS
from repro.report import layers
from repro.report import strategies as table_7
from repro.statistics.summary import ABSENT, signed, size_names, tuned

FULL_SHADE = 20.0  # points of difference at which the shading is darkest, in every table
LIFT_SHADE = 10.0  # points of shading for each doubling of a lift: darkest from four times
GREEN, RED = (0, 150, 90), (215, 60, 50)
SPLITS = {"train": "Training", "dev": "Dev", "test": "In-domain", "testood": "Out-of-domain"}
MARK = "border-top:2px solid;border-bottom:2px solid;"
CELL = {
    "text-align": "right",
    "white-space": "nowrap",
    "padding": ".2em .5em",
    "line-height": "1.2",
    "vertical-align": "top",
}
TASK_COLUMNS = {
    "xsum_rouge1": ("XSum", "ROUGE-1"),
    "xsum_rouge2": ("XSum", "ROUGE-2"),
    "xsum_rougeL": ("XSum", "ROUGE-L"),
    "gsm8k_accuracy": ("GSM8K", "Acc"),
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


def show(frame: pd.DataFrame, title: str, decimals: int = 2) -> Html:
    """Return any frame as a table: floats with `decimals`, integers with separators."""
    if frame.columns.empty:
        return Html(f"<p>{html.escape(title)}: {ABSENT}</p>", title)
    rows = frame.reset_index(drop=True).rename(columns=lambda name: str(name).replace("_", " "))
    words = rows.map(lambda value: isinstance(value, str))
    style = words.replace({True: "text-align:left;white-space:normal;", False: ""})
    cells = rows.map(lambda value: _plain(value, decimals))
    return _table(cells, style, title, frame, hide_index=True)


def restoration(frame: pd.DataFrame, title: str, mark: float | None = None) -> Html:
    """Return Table 4 or 6 for one split: restored share by training level, one block per size.

    `frame` has train_size, train_level, restored_percent, accuracy (percent), and where known
    spread, low, high. A cell is shaded by its difference from the same model without
    restoration, on one scale for every table (darkest from `FULL_SHADE` points). The row of the
    share `mark` (percent) is framed. Raises ValueError if a cell would have two values.
    """
    rows = _by_size(frame, ["restored_percent", "train_level"])
    rows, difference = _since(rows, ["group", "train_level"])
    framed = rows["restored_percent"].map(lambda share: MARK if share == mark else "")
    rows["css"] = [shade(d) + border for d, border in zip(difference, framed, strict=True)]
    rows["row"] = rows["restored_percent"].map(lambda share: _restored(share, mark))
    rows["column"] = rows["train_level"].map(_trained_on)
    rows["text"] = _texts(rows.assign(difference=difference))
    return _pivot(rows, map(_trained_on, LEVELS), ("Training facts", "Restored"), title, frame)


def tasks(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 5: restored share by measure of XSum and GSM8K, shaded as `restoration`.

    `frame` has metric (of `TASK_COLUMNS`), restored_percent, accuracy (percent; ROUGE is an
    F-measure), and where known low, high.
    """
    ordered = frame.assign(group="").sort_values("restored_percent", kind="stable")
    rows, difference = _since(ordered, ["metric"])
    rows["css"] = [shade(d) for d in difference]
    rows["row"] = [_restored(share, None) for share in rows["restored_percent"]]
    rows["column"] = [TASK_COLUMNS[metric] for metric in rows["metric"]]
    rows["text"] = _texts(rows.assign(difference=difference))
    return _pivot(rows, TASK_COLUMNS.values(), ("", "Restored"), title, frame)


def scale(frame: pd.DataFrame, title: str) -> Html:
    """Return what Figures 2 and 6 draw, for one split: data size by training level.

    `frame` has train_level, train_size, accuracy (percent), and where known size_label, spread,
    low, high. The best size of every training level is bold.
    """
    rows = _by_size(tuned(frame), ["train_level"])
    best = rows.groupby("train_level")["accuracy"].transform("max")
    rows["css"] = np.where((rows["accuracy"] == best) & (best > 0), "font-weight:bold;", "")
    rows["column"] = rows["train_level"].map(_trained_on)
    rows = rows.assign(row=rows["group"], group="", text=_texts(rows))
    return _pivot(rows, map(_trained_on, LEVELS), ("", "Training facts"), title, frame)


def accuracy(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 2: training level by test level and their mean, in and out of domain.

    `frame` has model, train_level, split, test_level ("0" to "4" and "mean"), accuracy (percent),
    and where known spread, low, high. The best training level of every column is bold.
    """
    rows = frame[(frame["train_level"] >= 0) & frame["split"].isin(["test", "testood"])]
    rows = rows.assign(order=rows["train_level"]).rename(columns={"model": "group"})
    rows = _by_model(rows)
    best = rows.groupby(["group", "split", "test_level"])["accuracy"].transform("max")
    rows["css"] = np.where((rows["accuracy"] == best) & (best > 0), "font-weight:bold;", "")
    rows["row"] = rows["train_level"].map(_trained_on)
    cells = zip(rows["split"], rows["test_level"], strict=True)
    rows["column"] = [(SPLITS[split], _tested_on(level)) for split, level in cells]
    rows["text"] = _texts(rows)
    levels = [_tested_on(level) for level in [*map(str, LEVELS), "mean"]]
    columns = [(SPLITS[split], level) for split in ("test", "testood") for level in levels]
    return _pivot(rows, columns, ("Model", "Trained on"), title, frame)


def differences(frame: pd.DataFrame, title: str) -> Html:
    """Return comparisons of `controls`: runs by share and strategy, points and interval.

    `frame` has train_size, train_level, restored_percent, strategy, estimate, low, high, verdict.
    A cell is shaded where its interval excludes zero.
    """
    rows = _by_size(frame, ["train_level"]) if len(frame) else frame.assign(group="")
    cells = zip(rows["estimate"], rows["low"], rows["high"], strict=True)
    rows["text"] = [
        f"{signed(d)}<br><small>{signed(low, 1)} to {signed(high, 1)}</small>"
        for d, low, high in cells
    ]
    rows["css"] = np.where(rows["verdict"] == "undecided", "", rows["estimate"].map(shade))
    rows["row"] = rows["train_level"].map(_trained_on)
    shares = rows["restored_percent"].map(lambda share: f"{share:g}%")
    rows["column"] = list(zip(shares, rows["strategy"], strict=True))
    place = rows["strategy"].map(list(rows["strategy"].unique()).index)
    columns = rows.assign(place=place).sort_values(["restored_percent", "place"])["column"].unique()
    return _pivot(rows, columns, ("Training facts", "Trained on"), title, frame)


def concentration(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 3: share of the total change held by the most changed parameters.

    `frame` has train_size, train_level, top_percent, share_of_change_percent, and where known
    spread.
    """
    rows = _by_size(frame, ["train_level", "top_percent"])
    rows["row"] = rows["train_level"].map(_trained_on)
    rows["column"] = rows["top_percent"].map(lambda share: f"top {share:g}%")
    rows["text"] = _texts(rows.rename(columns={"share_of_change_percent": "accuracy"}))
    columns = [f"top {share:g}%" for share in sorted(rows["top_percent"].unique())]
    return _pivot(rows.assign(css=""), columns, ("Training facts", "Trained on"), title, frame)


def places(frame: pd.DataFrame, title: str, by: str) -> Html:
    """Return Table 9 (`by` layer) or 10 (`by` module): where the restored parameters lie.

    `frame` comes from `where.summary`; without train_level it is the paper's. A cell holds the
    percentage and the lift, and is shaded by the lift: green and bold above an even share.
    """
    ours = "train_level" in frame
    rows = _by_size(frame, []) if ours else frame.assign(group="")
    names = rows["train_level"].map(_trained_on) if ours else "LLaMA-3-8B"
    css = [
        shade(LIFT_SHADE * np.log2(lift)) if lift else shade(-FULL_SHADE) for lift in rows["lift"]
    ]
    rows = rows.assign(row=rows[by], column=names, css=css)
    texts = _texts(rows.assign(accuracy=rows["share"]))
    rows["text"] = [
        f"{text}<br><span>×{lift:.2f}</span>"
        for text, lift in zip(texts, rows["lift"], strict=True)
    ]
    columns = map(_trained_on, LEVELS) if ours else ["LLaMA-3-8B"]
    corner = ("Training facts" if ours else "", by.capitalize())
    return _pivot(rows, columns, corner, title, frame)


def blocks(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 11 for one split: training level by restored block of layers.

    `frame` comes from `layers.published` or `layers.means`. A cell is shaded by its difference
    from the same model without restoration (`none`), as in `restoration`.
    """
    rows = _by_size(frame, ["train_level"]) if len(frame) else frame.assign(group="")
    keys = ["group", "train_level"]
    before = rows.loc[rows["layers"] == layers.NONE, [*keys, "accuracy"]]
    rows = rows.merge(before.rename(columns={"accuracy": "before"}), on=keys, how="left")
    difference = (rows["accuracy"] - rows["before"]).where(rows["layers"] != layers.NONE)
    rows = rows.assign(row=rows["train_level"].map(_trained_on), column=rows["layers"])
    rows = rows.assign(css=difference.map(shade), text=_texts(rows.assign(difference=difference)))
    corner = ("Training facts", "Restored layers")
    return _pivot(rows, layers.blocks(frame["layers"]), corner, title, frame)


def strategies(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 7: strategies by split, chosen in two ways, and the paper's beside them.

    `frame` comes from `strategies.best`. The best strategy of every column is bold.
    """
    rows = pd.concat([frame, table_7.published()], ignore_index=True)
    rows = rows.assign(place=rows["strategy"].map(table_7.ORDER.index)).sort_values("place")
    best = rows.groupby(["split", "chosen_on"])["accuracy"].transform("max")
    rows["css"] = np.where(rows["accuracy"] == best, "font-weight:bold;", "")
    lines = rows["setting"].fillna("").str.replace(", ", "<br>")
    settings = lines.map(lambda text: f"<br><small>{text}</small>" if text else "")
    rows["text"] = [t + own for t, own in zip(_texts(rows), settings, strict=True)]
    ways = {"dev": "chosen on dev", table_7.OWN: "chosen on itself", "paper": "paper"}
    cells = zip(rows["split"], rows["chosen_on"], strict=True)
    rows["column"] = [(SPLITS[split], ways[chosen]) for split, chosen in cells]
    columns = [(SPLITS[split], way) for split in table_7.REPORTED for way in ways.values()]
    rows = rows.assign(group="", row=rows["strategy"])
    return _pivot(rows, columns, ("", "Strategy"), title, rows.drop(columns=["text", "css"]))


def distribution(frame: pd.DataFrame, title: str) -> Html:
    """Return Tables 1 and 8: facts per mastery level and split, with their share in percent.

    `frame` has model, split, level, count. A 0 here is a count: the level exists and is empty.
    """
    rows = frame.assign(order=frame["split"].map(list(SPLITS).index))
    rows = _by_model(rows.rename(columns={"model": "group"}))
    rows["row"] = rows["split"].map(SPLITS)
    totals = rows.groupby(["group", "row"])["count"].transform("sum")
    shares = 100 * rows["count"] / totals
    counts = zip(rows["count"], shares, strict=True)
    rows["text"] = [f"{count:,}<br><small>{share:.1f}%</small>" for count, share in counts]
    rows["column"] = rows["level"].map(lambda level: f"level {level}")
    every = rows.assign(column="all", text=totals.map("{:,}".format))
    rows = pd.concat([rows, every.drop_duplicates(["group", "row"])]).assign(css="")
    columns = [*(f"level {level}" for level in LEVELS), "all"]
    return _pivot(rows, columns, ("Model", "Facts"), title, frame)


def beside(*parts: Html) -> Html:
    """Return tables side by side where the page is wide enough, else below each other."""
    boxes = "".join(f'<div style="max-width:100%;overflow-x:auto">{p.html}</div>' for p in parts)
    style = "display:flex;flex-wrap:wrap;gap:0 1.5em;align-items:flex-start"
    return Html(f'<div style="{style}">{boxes}</div>', " | ".join(p.title for p in parts))


def to_csv_link(frame: pd.DataFrame, name: str) -> Html:
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


def _by_size(frame: pd.DataFrame, order: list[str]) -> pd.DataFrame:
    """Rows of fine-tuned models, by size ("All" last), with the size's name as `group`."""
    rows = frame[frame["train_level"] >= 0]
    names = size_names(rows).map(lambda name: f"{int(name):,}" if name.isdecimal() else name)
    rows = rows.assign(group=names, whole=names == "All", size=rows["train_size"])
    # Whole pools differ in size by level, yet are one block of the table.
    rows["size"] = rows["size"].mask(rows["whole"], 0)
    return rows.sort_values(["whole", "size", *order], kind="stable")


def _since(rows: pd.DataFrame, keys: list[str]) -> tuple[pd.DataFrame, pd.Series]:
    """Return rows, and how far each restored one is from its own without restoration."""
    before = rows.loc[rows["restored_percent"] == 0, [*keys, "accuracy"]]
    rows = rows.merge(before.rename(columns={"accuracy": "before"}), on=keys, how="left")
    return rows, (rows["accuracy"] - rows["before"]).where(rows["restored_percent"] != 0)


def _by_model(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by model in order of appearance, and within a model by `order`."""
    place = rows["group"].map({model: i for i, model in enumerate(rows["group"].unique())})
    return rows.assign(place=place).sort_values(["place", "order"], kind="stable")


def _restored(share: float, mark: float | None) -> str:
    return ("▸ " if share == mark else "") + (f"{share:g}%" if share else "0")


def _trained_on(level: int) -> str:
    return f"D<sub>train-{level}</sub>"


def _tested_on(level: str) -> str:
    return "Acc" if level == "mean" else f"Acc<sub>{level}</sub>"


def _texts(rows: pd.DataFrame) -> list[str]:
    wanted = rows.reindex(columns=["accuracy", "spread", "difference", "low", "high"])
    return [_text(*values) for values in wanted.itertuples(index=False)]


def _text(value: float, spread: float, difference: float, low: float, high: float) -> str:
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


def _pivot(rows, columns, corner: tuple[str, str], title: str, source: pd.DataFrame) -> Html:
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
    return _table(cells, style, title, source)


def _table(cells, style, title: str, source: pd.DataFrame, hide_index: bool = False) -> Html:
    digest = hashlib.sha256((title + cells.to_csv() + style.to_csv()).encode()).hexdigest()[:8]
    # On a narrow screen the table scrolls and its title stays.
    caption = f'<span class="title">{html.escape(title)}</span>'
    styler = Styler(cells, uuid=digest, cell_ids=False, caption=caption)
    styler.set_table_attributes('class="dataframe"').set_properties(**CELL)
    styler.apply(lambda _: style, axis=None).set_table_styles(FRAME)
    if hide_index:
        styler.hide(axis="index")
    link = to_csv_link(source, title)
    return Html(f'<div style="overflow-x:auto">{styler.to_html()}</div>{link.html}', title)
