# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Data size: more is not always better
#
# Section 3.4 of the paper with its Figures 2 and 6 (Phenomena 1 and 2).
#
# <details><summary>Run this page on another model</summary>
#
# ```bash
# papermill notebooks/02_scale.py -p model MODEL -p profile PROFILE
# ```
#
# `-p split testood` judges the phenomena out of domain.
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"
split = "test"

# %%
import pandas as pd
from IPython.display import Markdown

from repro import paper
from repro.claims import phenomena
from repro.report import html, layout, scale
from repro.statistics import summary, verdicts
from repro.study import open_study

s = open_study(model, profile)
means, answers = summary.means(s.results.accuracy()), s.results.answers()

# %%
few = phenomena.accuracy_rises(means, split, answers)
many = phenomena.accuracy_falls(means, split, answers)
second = phenomena.level_0_is_worst(means, split, answers)
first = pd.concat([few, many])
layout.findings(s.model.title, scale.findings(few, many, second))

# %%
layout.figure(
    scale.figure(means, paper.table("restore")),
    "2.1",
    "Acc after fine-tuning on so many facts of one level. The paper prints two points of each"
    " curve (Table 4); its Figures 2 and 6 are images. Bands are 95 % intervals over questions.",
    alt="Accuracy against the number of training facts, the paper's beside ours on one scale, in"
    " and out of domain, one line per training level",
)

# %% [markdown]
# ## The question
#
# *The best accuracy comes with just 240 facts, whatever their level* (Phenomenon 1). *With many facts,
# the level of the training data matters: level 0 is the worst, and falls most* (Phenomenon 2).
#
# ## The method
#
# One model is fine-tuned for every mastery level of its training facts and every number of facts.
# *Acc* is the mean of the accuracies on the test facts of each level (Section 3.3); a level
# without test facts does not enter. The dashed line is the model before fine-tuning, asked with the
# same prompt; hollow markers stand for all facts of a level.
#
# A comparison is *supported* when the 95 % interval of the difference lies on the paper's
# side of zero, *contradicted* when it lies on the other side also after correction for the number of
# comparisons, and *undecided* otherwise. A statement *holds* when all its comparisons are supported.
# Where we have no run of more than 240 facts, that half of the phenomenon stays undecided.
#
# All runs answer the same questions. Where their answers are kept, the interval is *paired*: questions
# are drawn anew within each level, and data samples within each training level, together for all runs
# of a comparison. Elsewhere, and where a level has few test facts, the two models' intervals are
# added up as if they stood *apart*, which makes the interval wide.

# %%
Markdown(
    f"**{s.model.title}**, profile `{s.profile.name}`, {s.profile.samples} data sample(s) per "
    f"size. Learning rate {s.model.learning_rate:g}."
)

# %% [markdown]
# ## Figures 2 and 6 as numbers

# %%
parts = {}
for name, part in (("In-domain", "test"), ("Out-of-domain", "testood")):
    title = f"{name} Acc (%) of {s.model.title}, with spread and 95 % interval"
    parts[name] = scale.table(means[means["split"] == part], title)
layout.tabs(parts, "Figures 2 and 6")

# %% [markdown]
# The text of the paper quotes four changes. We compute each once more from the paper's Table 4, and
# from our runs.

# %%
quoted = phenomena.quoted_changes(means, answers)
html.table(quoted, "Changes of in-domain Acc quoted in Section 3.4")

# %% [markdown]
# ## Phenomenon 1
#
# It should rise up to 240 facts and fall beyond.

# %%
where = paper.SPLIT_TITLES[split].lower()
said = {f"Phenomenon 1, {where}": first, "It rises up to 240 facts": few, "It falls beyond": many}
Markdown("\n\n".join(verdicts.sentence(name, rows) for name, rows in said.items()))

# %%
html.table(first[verdicts.SHOWN], "Phenomenon 1: differences in points")

# %% [markdown]
# ## Phenomenon 2
#
# Compared at the largest size that two levels have.

# %%
Markdown(verdicts.sentence(f"Phenomenon 2, {where}", second))

# %%
html.table(second[verdicts.SHOWN], "Phenomenon 2: differences in points")

# %% [markdown]
# ## The learning rate
#
# The paper uses one rate for models from 7 to 70 billion parameters. Smaller models need a larger
# one. The rule: the rate with the most right answers on the dev facts, all levels together, because
# a level with a handful of facts would decide the mean over levels. Never chosen on a test split.

# %%
rates = scale.learning_rate_means(s.results.learning_rates())
html.table(rates, "Learning rates tried: right answers on the dev split (%)")

# %%
best = scale.best_rate(rates)
tried = f"Best on dev: {best:g}." if best else "This profile tries no rates."
Markdown(f"{tried} Used: {s.model.learning_rate:g}.")

# %%
layout.figure(
    scale.learning_rate_figure(rates, s.model.learning_rate),
    "2.2",
    "Right answers on dev by learning rate, with 95 % intervals.",
    alt="Right answers on the dev split against the learning rate, with the chosen rate marked",
)
