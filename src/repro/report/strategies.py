"""Restoration and other strategies of fine-tuning (Table 7, Appendix C.3), at their best settings.

The paper takes the setting that is best on the split that it reports. This favours the strategy
with the most settings. So the setting that is best on dev is shown too.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from repro import paper
from repro.errors import ConfigError
from repro.models import registry
from repro.paper import SPLIT_TITLES
from repro.report.html import Html, cell_texts, grid
from repro.report.layout import Finding
from repro.report.style import MARKERS, STYLE, VIVID, WIDTH, closed
from repro.statistics import summary
from repro.statistics.verdicts import CONTRADICTED, SUPPORTED, compare

INSTRUCT, MIXED, DIVIDED, LORA, RESTORED = (
    "Instruct",
    "SFT (Mixed)",
    "SFT (Divided)",
    "LoRA",
    "Parameter Restoration",
)
ORDER = (INSTRUCT, MIXED, DIVIDED, LORA, RESTORED)
SETTING = ["train_level", "train_size", "size_label", "restored_percent"]
REPORTED = ("test", "testood")
OWN = "itself"  # the setting is chosen on the split that is reported, as in the paper
COLUMNS = ["split", "chosen_on", "strategy", "setting", "settings", "accuracy", "low", "high"]
COLUMNS += ["spread", "n"]


def published() -> pd.DataFrame:
    """Return Table 7 in the columns of `best`: split, strategy, accuracy (percent)."""
    table = paper.table("strategies")
    named = table["strategy"].replace({"LLaMA-3-8B-Instruct": INSTRUCT})
    return table.assign(strategy=named, chosen_on="paper")


def gather(measured) -> pd.DataFrame:
    """Return `summary.means` of every setting of every strategy of a `Study`, and `strategy`.

    The strategy *Divided* has the runs whose parameters are restored, but before restoration. A
    strategy without runs has no rows.
    """
    restored = summary.restored(measured.results.accuracy())
    none = restored["restored_percent"] == 0
    parts = {
        INSTRUCT: measured.results.instruct(),
        MIXED: measured.results.strategy(measured.grid.mixed_runs()),
        DIVIDED: restored[none],
        LORA: measured.results.strategy(measured.grid.lora_runs()),
        RESTORED: restored[~none],
    }
    means_of_strategies = [
        summary.means(rows).assign(strategy=n) for n, rows in parts.items() if len(rows)
    ]
    if not means_of_strategies:
        return pd.DataFrame(columns=["strategy", "split", *SETTING, *COLUMNS[5:]])
    return pd.concat(means_of_strategies, ignore_index=True)


def best(means: pd.DataFrame) -> pd.DataFrame:
    """Return every strategy at its best setting, chosen on dev and on the reported split itself.

    `means` comes from `gather`. The columns are `COLUMNS`; `settings` is the number of settings to
    choose from. Of equally good settings the first is taken.
    """
    rows = [
        _best(rows_of_strategy, split, chosen_on) | {"strategy": strategy}
        for split in REPORTED
        for chosen_on in ("dev", OWN)
        for strategy in ORDER
        if len(rows_of_strategy := means[means["strategy"] == strategy])
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _best(rows: pd.DataFrame, split: str, chosen_on: str) -> dict:
    """Return the best setting of one strategy by one choice, and its accuracy on the split."""
    judged = rows[rows["split"] == (split if chosen_on == OWN else chosen_on)]
    setting = judged.loc[judged["accuracy"].idxmax(), SETTING]
    is_best = (rows[SETTING] == setting).all(axis=1) & (rows["split"] == split)
    chosen = rows.loc[is_best, COLUMNS[5:]].iloc[0].to_dict()
    return {
        "split": split,
        "chosen_on": chosen_on,
        "setting": _words(setting),
        "settings": len(judged),
        **chosen,
    }


def _words(setting: pd.Series) -> str:
    parts = []
    if setting["train_size"]:
        parts.append(f"{setting['train_size']:,} facts")
    if setting["train_level"] >= 0:
        parts.append(f"level {setting['train_level']}")
    if setting["restored_percent"]:
        parts.append(f"{setting['restored_percent']:g}% restored")
    return ", ".join(parts) or "as it is"


def luck(best_settings: pd.DataFrame) -> pd.DataFrame:
    """Return the points that choosing on the reported split adds to the accuracy.

    Columns: split, strategy, settings, points.
    """
    table = best_settings.pivot(index=["split", "strategy"], columns="chosen_on", values="accuracy")
    table = table.reindex(columns=["dev", OWN])
    rows = best_settings[best_settings["chosen_on"] == OWN][["split", "strategy", "settings"]]
    points = (table[OWN] - table["dev"]).rename("points").reset_index()
    return rows.merge(points, on=["split", "strategy"])


def leads(best_settings: pd.DataFrame) -> pd.DataFrame:
    """Compare restoration with every other strategy, in points: rows of `verdicts.COLUMNS`.

    `best_settings` comes from `best`. The intervals take the answers as independent, because
    strategies were trained on different facts. The columns split, chosen_on and strategy (the other
    one) come first.
    """
    rows = []
    for row in best_settings.loc[best_settings["strategy"] != RESTORED].itertuples():
        at = {"split": row.split, "chosen_on": row.chosen_on}
        terms = [(1, at | {"strategy": RESTORED}), (-1, at | {"strategy": row.strategy})]
        rows.append(at | {"strategy": row.strategy} | compare("", best_settings, terms, "above"))
    columns = ["split", "chosen_on", "strategy", "estimate", "low", "high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def sentence(lead: pd.DataFrame, chosen_on: str) -> str:
    """Return a line of Markdown: how many strategies restoration is better than, by this choice."""
    rows = lead[lead["chosen_on"] == chosen_on].dropna(subset="estimate")
    name = {"dev": "Chosen on dev", OWN: "Chosen on the reported split itself"}[chosen_on]
    if rows.empty:
        return f"**{name}: nothing to compare.**"
    better, worse = ((rows["verdict"] == v).sum() for v in (SUPPORTED, CONTRADICTED))
    return (
        f"**{name}:** of {len(rows)} comparisons with another strategy, restoration is better in"
        f" {better}, worse in {worse}; {len(rows) - better - worse} are undecided."
    )


def absent(measured, means: pd.DataFrame) -> str:
    """Return Markdown: for every strategy without a row, the reason."""
    missing = [name for name in ORDER if name not in set(means["strategy"])]
    lines = []
    for name in missing:
        why = f"the profile `{measured.profile.name}` has no such runs"
        if name == INSTRUCT and not measured.model.instruct:
            why = _no_instruct(measured.model)
        lines.append(f"- {name}: {why}.")
    return "\n".join(lines) or "Every strategy of the paper has a row."


def _no_instruct(model: registry.ModelEntry) -> str:
    if "instruct" in model.title.lower():
        return f"the weights of {model.title} are such a variant themselves"
    if model.bundled:
        return f"{model.title} was pre-trained by this project, and nobody has made one of it"
    return f"the registry names none for {model.title}"


def instruct(measured, name: str):
    """Return the study with another instruct model: a registry name or a folder.

    `default` is the registry's own, `none` leaves it out.

    Raises:
        ConfigError: there is no such model, or it is the studied model itself.
    """
    if name == "default":
        return measured
    if name != "none" and _place(registry.entry(name)) == _place(measured.model):
        raise ConfigError(f"{name} is the studied model: it cannot be its own instruct model")
    variant = "" if name == "none" else name
    return replace(measured, model=replace(measured.model, instruct=variant))


def _place(model: registry.ModelEntry) -> tuple:
    return model.name, model.folder


def table(frame: pd.DataFrame, title: str) -> Html:
    """Return Table 7: strategies by split, chosen in two ways, and the paper's beside them.

    `frame` comes from `strategies.best`. The best strategy of every column is bold.
    """
    rows = pd.concat([frame, published()], ignore_index=True)
    rows = rows.assign(place=rows["strategy"].map(ORDER.index)).sort_values("place")
    best = rows.groupby(["split", "chosen_on"])["accuracy"].transform("max")
    rows["css"] = np.where(rows["accuracy"] == best, "font-weight:bold;", "")
    lines = rows["setting"].fillna("").str.replace(", ", "<br>")
    settings = lines.map(lambda text: f"<br><small>{text}</small>" if text else "")
    rows["text"] = [t + setting for t, setting in zip(cell_texts(rows), settings, strict=True)]
    ways = {"dev": "chosen on dev", OWN: "chosen on itself", "paper": "paper"}
    cells = zip(rows["split"], rows["chosen_on"], strict=True)
    rows["column"] = [(SPLIT_TITLES[split], ways[chosen]) for split, chosen in cells]
    columns = [(SPLIT_TITLES[split], way) for split in REPORTED for way in ways.values()]
    rows = rows.assign(group="", row=rows["strategy"])
    return grid(rows, columns, ("", "Strategy"), title, rows.drop(columns=["text", "css"]))


def findings(lead: pd.DataFrame) -> list[Finding]:
    """Return the findings of Appendix C.3 on Table 7, for both ways to choose the settings."""
    claim = "Parameter restoration is better than the other ways to fine-tune."
    decided_leads = lead.dropna(subset="estimate")
    words = (
        "restoration is better than another strategy",
        "restoration is worse than another strategy",
    )
    ways = {"dev": "settings chosen on dev", OWN: "settings chosen on the reported split"}
    return [
        Finding(f"Table 7, {text}", claim, decided_leads[decided_leads["chosen_on"] == way], *words)
        for way, text in ways.items()
    ]


@plt.rc_context(STYLE)
def figure(best_settings: pd.DataFrame) -> Figure:
    """Draw Table 7: Acc of each strategy in both domains, for both choices, beside the paper's.

    `best_settings` comes from `best`. Bars are 95 % intervals; the paper's numbers have none.
    """
    rows = pd.concat([best_settings, published()], ignore_index=True)
    drawn, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.6), sharey=True, layout="constrained")
    ways = {"dev": "chosen on dev", OWN: "chosen on itself", "paper": "paper"}
    for axis, split in zip(axes, REPORTED, strict=True):
        for place, (way, label) in enumerate(ways.items()):
            points = rows[(rows["split"] == split) & (rows["chosen_on"] == way)]
            y = points["strategy"].map(ORDER.index) + 0.2 * (place - 1)
            ends = points.reindex(columns=["low", "high"]).to_numpy(float).T
            error = np.nan_to_num(np.abs(ends - points["accuracy"].to_numpy(float)))
            style = {"color": VIVID[place], "marker": MARKERS[place], "ls": "", "ms": 5}
            axis.errorbar(points["accuracy"], y, xerr=error, label=label, elinewidth=0.8, **style)
        axis.set(title=SPLIT_TITLES[split], xlabel="Acc (%)")
        axis.grid(color="0.9", lw=0.8)
    axes[0].set_yticks(range(len(ORDER)), ["\n".join(name.split(" ", 1)) for name in ORDER])
    axes[0].set_ylim(len(ORDER) - 0.5, -0.5)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return closed(drawn)
