"""The style of all figures: palette, axes, legends, and the drawing of curves and bars.

Figures are narrow with large type, so that they are readable on a phone. Each mastery level has a
colour, from dark to light, and a marker of its own, so that levels differ also in grey and for
colour-blind readers.
"""

import html
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from repro.paper import LEVELS
from repro.statistics.summary import size_names, sizes

_INFERNO = sns.color_palette("inferno", 100).as_hex()
COLOURS = [_INFERNO[i] for i in (4, 25, 42, 57, 67)]  # of mastery levels 0 to 4
MARKERS = ["o", "s", "^", "D", "v"]
WIDTH, DPI = 5.2, 150
VIVID = ["black", *(sns.color_palette("colorblind").as_hex()[i] for i in (3, 0, 2, 4))]
SHARES = [0, 1, 3, 5, 10, 20, 40, 60, 80, 100]
FEW_SHARES = [0, 1, 5, 20, 40, 60, 80, 100]  # ticks of a narrow panel
# On a dark page level 0 is the lightest, so that it is as prominent as on a light page.
DARK_COLOURS = dict(zip(COLOURS, (_INFERNO[i] for i in (95, 83, 71, 59, 46)), strict=True))
DARK_PAGE = "html[data-theme=dark] {0},[data-jp-theme-light=false] {0}"
STYLE = {
    "axes.edgecolor": "0.4",
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "font.size": 11,
    "svg.fonttype": "none",  # text stays text: it can be searched, read out and scaled
    "legend.fontsize": 10,
    "legend.frameon": False,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}


def heat_map(values: pd.DataFrame, xlabel: str, label: str) -> Figure:
    """Draw values in percent as colours, with the rows and columns of the frame."""
    size = (WIDTH, 1.4 + 0.2 * len(values))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    if values.empty:
        say_if_empty(axis, values)
        axis.set_xlabel(xlabel)
        return closed(figure)
    top = max(float(np.nanmax(values.to_numpy())), 1.0)
    image = axis.imshow(values, cmap="cividis", aspect="auto", vmin=0, vmax=top)
    axis.set_yticks(range(len(values)), values.index, fontsize=8)
    axis.set(xlabel=xlabel)
    figure.colorbar(image, ax=axis, orientation="horizontal", label=label)
    return closed(figure)


def side_by_side(rows: int, titles: tuple[str, str]) -> tuple[Figure, np.ndarray]:
    """Return a figure with two panels in each row on one y axis, the paper's left of ours."""
    size = (WIDTH, 1.2 + 2.3 * rows)
    options = {"squeeze": False, "sharey": "row", "layout": "constrained"}
    figure, axes = plt.subplots(rows, 2, figsize=size, **options)
    for axis in axes.flat:
        axis.grid(color="0.9", lw=0.8)
        axis.set_axisbelow(True)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    return figure, axes


def panel_grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Return a figure of rows and columns of panels on one x axis, with faint grid lines."""
    size = (WIDTH, 1.3 + 1.55 * rows)
    options = {"squeeze": False, "sharex": True, "layout": "constrained"}
    figure, axes = plt.subplots(rows, columns, figsize=size, **options)
    for axis in axes.flat:
        axis.grid(color="0.9", lw=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def panels(count: int) -> tuple[Figure, np.ndarray]:
    """Return a figure of panels below each other, and their axes."""
    size = (WIDTH, 0.9 + 2.7 * count)
    figure, axes = plt.subplots(count, 1, figsize=size, squeeze=False, layout="constrained")
    for axis in axes[:, 0]:
        axis.grid(color="0.9", lw=0.8)
        axis.set_axisbelow(True)
    return figure, axes[:, 0]


def level_curves(axis: Axes, rows: pd.DataFrame, x: str, y: str, mark: float | None = None) -> None:
    """Draw `y` against `x`, one line per training level, with bands if low and high are known.

    Hollow markers are whole pools ("All") if `x` is the size, else the value `mark`.
    """
    for level, run in rows.sort_values(x).groupby("train_level"):
        colour, marker = COLOURS[level], MARKERS[level]
        axis.plot(x, y, data=run, color=colour, marker=marker, ms=6, lw=1.6)
        if "low" in run:
            axis.fill_between(run[x], run["low"], run["high"], color=colour, alpha=0.1, lw=0)
        hollow_rows = run[size_names(run) == "All"] if x == "train_size" else run[run[x] == mark]
        style = {"mfc": "white", "mec": colour, "ls": "", "zorder": 3}
        axis.plot(hollow_rows[x], hollow_rows[y], marker, ms=9, **style)


def untuned_line(axis: Axes, rows: pd.DataFrame) -> None:
    """Draw the accuracy of the model before fine-tuning as a dashed line."""
    before = rows.loc[rows["train_level"] == -1, "accuracy"]
    if len(before):
        axis.axhline(before.mean(), color="0.3", ls="--", lw=1.2)


def size_axis(axis: Axes, rows: pd.DataFrame, few: bool = False) -> None:
    """Make the x axis logarithmic, with a tick at each sampled size, or at every second one."""
    axis.set_xscale("log")
    ticks = sizes(rows) or sorted(rows["train_size"].unique())
    ticks = ticks[::-2][::-1] if few and len(ticks) > 4 else ticks
    axis.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axis.minorticks_off()


def share_axis(axis: Axes, shares: pd.Series, few: bool = False) -> None:
    """Make the x axis a square root, which gives small shares room, with ticks in percent."""
    axis.set_xscale("function", functions=(square_root, np.square))
    top = max(shares.max(), 1)
    ticks = [share for share in (FEW_SHARES if few else SHARES) if share <= top]
    axis.set_xticks(ticks, [str(share) for share in ticks])


def square_root(values: np.ndarray) -> np.ndarray:
    """Return the square roots, 0 for negative numbers, which an axis passes below its lower end."""
    return np.sqrt(np.clip(values, 0, None))


def level_bars(shares: pd.DataFrame, print_shares: bool = True, height: float = 0.3) -> Figure:
    """Draw one bar per row, divided by level; `shares` has a column per level, in percent."""
    size = (WIDTH, 1.4 + height * len(shares))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    stack_levels(axis, shares, print_shares)
    level_legend(figure)
    return closed(figure)


def stack_levels(axis: Axes, shares: pd.DataFrame, print_shares: bool = True) -> None:
    """Draw the bars of `level_bars` on an axis; shares of 6 % or more are printed."""
    left = np.zeros(len(shares))
    for level in LEVELS:
        width = shares.get(level, pd.Series(0.0, index=shares.index)).fillna(0).to_numpy()
        bars = axis.barh(shares.index, width, left=left, color=COLOURS[level], edgecolor="white")
        texts = [f"{w:.0f}" if print_shares and w >= 6 else "" for w in width]
        axis.bar_label(bars, texts, label_type="center", color="white", fontsize=9)
        left += width
    axis.invert_yaxis()
    axis.set(xlim=(0, 100))


def level_legend(figure: Figure) -> None:
    """Add a legend of the mastery levels below the figure."""
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[i], label=str(i)) for i in LEVELS]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, title="Mastery level")


def finish(figure: Figure, rows: pd.DataFrame, extra=(), title="Trained on level") -> Figure:
    """Add a legend of the training levels that `rows` has, then `extra` handles, and close."""
    say_if_empty(figure.axes[0], rows)
    present = sorted(level for level in rows["train_level"].unique() if level >= 0)
    handles = [Line2D([], [], color=COLOURS[i], marker=MARKERS[i], label=str(i)) for i in present]
    if (rows["train_level"] == -1).any():
        handles.append(Line2D([], [], color="0.3", ls="--", label="before"))
    handles += extra
    if handles:
        columns = {"ncols": min(len(handles), 6), "columnspacing": 1.2, "handlelength": 1.6}
        figure.legend(handles=handles, loc="outside lower center", title=title, **columns)
    return closed(figure)


def thousands(name: str) -> str:
    """Return the name of a size with a thousands separator; "All" stays."""
    return f"{int(name):,}" if name.isdecimal() else name


def say_if_empty(axis: Axes, rows: pd.DataFrame) -> None:
    """If there are no rows, write on the axis that there are no such runs."""
    if rows.empty:
        where = {"ha": "center", "va": "center", "transform": axis.transAxes}
        axis.text(0.5, 0.5, "No such runs", backgroundcolor="white", **where)


def closed(figure: Figure) -> Figure:
    """Return the figure, closed: Jupyter would show an open one again at the end of the cell."""
    plt.close(figure)
    return figure


def svg(figure: Figure, alt: str, name: str) -> tuple[str, str]:
    """Return a figure as inline SVG, and the CSS of its colours on a dark page.

    Each colour is a variable, whose default is the colour on a light page. `alt` describes the
    figure for blind readers; `name` makes the names inside it different from those of other
    figures.
    """
    file = io.StringIO()
    with plt.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # names that nothing refers to
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)  # a hundredth of a point is enough
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    label = html.escape(alt, quote=True)
    text = text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    colours = sorted({"#000000", *re.findall(r"#[0-9a-f]{6}\b", text)})
    text = re.sub(r"#([0-9a-f]{6})\b", r"var(--c-\1,#\1)", text)
    dark = "".join(f"--c-{c[1:]}:{_on_dark(c)};" for c in colours if _on_dark(c) != c)
    return text, DARK_PAGE.format(".repro-figure") + f"{{{dark}}}"


def _on_dark(colour: str) -> str:
    """Return the colour on a dark page: greys are inverted, levels have colours of their own."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    if red == green == blue:
        grey = round(230 - red * (230 - 18) / 255)
        return f"#{grey:02x}{grey:02x}{grey:02x}"
    return DARK_COLOURS.get(colour, colour)
