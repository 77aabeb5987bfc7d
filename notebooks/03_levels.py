# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Mastery of the training facts: which questions to train on
#
# Reproduces Table 2 of the paper (Section 3.4). To run it on another model, or at another data size
# (`-p size 240`):
#
# ```bash
# papermill notebooks/03_levels.py -p model MODEL -p profile PROFILE
# ```

# %% tags=["parameters"]
model = "default"
profile = "default"
size = "largest"

# %%
from IPython.display import Markdown

from repro import paper
from repro.claims import phenomena
from repro.report import html, levels
from repro.statistics import summary, verdicts
from repro.study import open_study

s = open_study(model, profile)
accuracy = summary.tuned(s.results.accuracy())
means = summary.means(accuracy)
size = phenomena.largest_common_size(means) if size == "largest" else int(size)
Markdown(f"**{s.model.title}**, profile `{s.profile.name}`, {size:,} training facts.")

# %% [markdown]
# ## Table 2
#
# Rows: the mastery level the model was trained on. Columns: the level it is tested on, and *Acc*,
# their mean. The best row of each column is bold. Subscripts are standard deviations over data
# samples (shown from two samples on), small print is the 95 % interval over questions. A dash is a
# cell that cannot exist: no test facts of that level, or too few facts to train on.

# %%
rows = levels.frame(accuracy)
rows = rows[rows["train_size"] == size]
levels.table(rows, f"Ours: {size:,} training facts")

# %%
levels.table(paper.table("accuracy_1920"), "Table 2 of the paper: 1,920 training facts")

# %% [markdown]
# ## What the paper reads from it
#
# *Training on facts the model hardly knows hurts the facts it knows well; training on well-known
# facts hurts the little-known ones; the middle is best overall.* The highest level we can train on
# takes the place of level 4. Intervals and verdicts as in [the notebook on data size](02_scale).

# %%
levels, answers = summary.per_level(accuracy), s.results.answers()
inside = phenomena.balance(levels, means, size, "test", answers)
Markdown(verdicts.sentence("In domain", inside))

# %%
html.table(inside[verdicts.SHOWN], "In domain: differences in points")

# %%
outside = phenomena.balance(levels, means, size, "testood", answers)
Markdown(verdicts.sentence("Out of domain", outside))

# %%
html.table(outside[verdicts.SHOWN], "Out of domain: differences in points")
