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
# # Mastery of the training facts: which questions to train on
#
# Section 3.4 of the paper with its Table 2.
#
# <details><summary>Run this page on another model</summary>
#
# ```bash
# papermill notebooks/03_levels.py -p model MODEL -p profile PROFILE
# ```
#
# `-p size 240` shows another data size.
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"
size = "largest"

# %%
from IPython.display import Markdown

from repro import paper
from repro.claims import phenomena
from repro.report import html, layout, levels
from repro.statistics import summary, verdicts
from repro.study import open_study

s = open_study(model, profile)
accuracy, answers = summary.tuned(s.results.accuracy()), s.results.answers()
means, by_level = summary.means(accuracy), summary.per_level(accuracy)
size = phenomena.largest_common_size(means) if size == "largest" else int(size)

# %%
inside = phenomena.balance(by_level, means, size, "test", answers)
outside = phenomena.balance(by_level, means, size, "testood", answers)
layout.findings(s.model.title, levels.findings(inside, outside, size))

# %%
rows = levels.frame(accuracy)
rows = rows[rows["train_size"] == size]
layout.figure(
    levels.figure(rows, paper.table("accuracy_1920")),
    "3.1",
    f"Accuracy on in-domain facts of each level: LLaMA-3-8B after 1,920 facts, ours after {size:,}.",
    alt="Accuracy by the level of the test facts, one line per training level, the paper's beside"
    " ours on one scale",
)

# %% [markdown]
# ## The question
#
# *Training on facts the model hardly knows hurts the facts it knows well; training on well-known
# facts hurts the little-known ones; the middle is best overall.*
#
# ## The method
#
# Rows: the mastery level the model was trained on. Columns: the level it is tested on, and *Acc*,
# their mean. The best row of each column is bold. A dash is a cell that cannot exist: no test facts
# of that level, or too few facts to train on. The highest level we can train on takes the place of
# level 4. Intervals and verdicts as in [the notebook on data size](02_scale).

# %%
Markdown(f"**{s.model.title}**, profile `{s.profile.name}`, {size:,} training facts.")

# %% [markdown]
# ## Table 2

# %%
levels.tables(rows, size)

# %% [markdown]
# ## The comparisons, one by one

# %%
Markdown(verdicts.sentence("In domain", inside))

# %%
html.table(inside[verdicts.SHOWN], "In domain: differences in points")

# %%
Markdown(verdicts.sentence("Out of domain", outside))

# %%
html.table(outside[verdicts.SHOWN], "Out of domain: differences in points")
