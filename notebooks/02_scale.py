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
# # Data size: more is not always better
#
# Reproduces Section 3.4 of the paper with its Figures 2 and 6 (Phenomena 1 and 2). To run it on
# another model, or to judge the phenomena out of domain (`-p split testood`):
#
# ```bash
# papermill notebooks/02_scale.py -p model MODEL -p profile PROFILE
# ```

# %% tags=["parameters"]
model = "default"
profile = "default"
split = "test"

# %%
import pandas as pd
from IPython.display import Markdown

from repro import paper
from repro.claims import phenomena
from repro.report import html, scale
from repro.statistics import summary, verdicts
from repro.study import open_study

s = open_study(model, profile)
Markdown(
    f"**{s.model.title}**, profile `{s.profile.name}`, {s.profile.samples} data sample(s) per "
    f"size. Learning rate {s.model.learning_rate:g}."
)

# %% [markdown]
# ## Figures 2 and 6
#
# One model is fine-tuned for every mastery level of its training facts and every number of facts.
# *Acc* is the mean of the accuracies on the test facts of each level (Section 3.3); a level
# without test facts does not enter. Bands are 95 % intervals over the questions; the dashed line
# is the model before fine-tuning, asked with the same prompt; hollow markers stand for all facts of
# a level.

# %%
means = summary.means(s.results.accuracy())

# %% mystnb={"image": {"alt": "Accuracy against the number of training facts, in and out of domain, one line per training level"}}
scale.figure(means)

# %%
rows = means[means["split"] == "test"]
scale.table(rows, f"In-domain Acc (%) of {s.model.title}, with spread and 95 % interval")

# %%
rows = means[means["split"] == "testood"]
scale.table(rows, f"Out-of-domain Acc (%) of {s.model.title}, with spread and 95 % interval")

# %% [markdown]
# ## The paper's numbers
#
# Figures 2 and 6 of the paper are images. Two points of each curve for LLaMA-3-8B are printed in its
# Table 4, in the rows without restoration:

# %% mystnb={"image": {"alt": "The paper's accuracy at 240 and 1,920 training facts, one line per training level"}}
scale.figure(paper.table("restore"))

# %% [markdown]
# The text quotes four changes. We compute each once more from the paper's Table 4, and from our runs.

# %%
answers = s.results.answers()
quoted = phenomena.quoted_changes(means, answers)
html.table(quoted, "Changes of in-domain Acc quoted in Section 3.4")

# %% [markdown]
# ## Phenomenon 1
#
# *The best accuracy comes with just 240 facts, whatever their level.* So it should rise up to 240 and
# fall beyond. A comparison is *supported* when the 95 % interval of the difference lies on the paper's
# side of zero, *contradicted* when it lies on the other side also after correction for the number of
# comparisons, and *undecided* otherwise. A statement *holds* when all its comparisons are supported.
# Where we have no run of more than 240 facts, that half of the phenomenon stays undecided.
#
# All runs answer the same questions. Where their answers are kept, the interval is *paired*: questions
# are drawn anew within each level, and data samples within each training level, together for all runs
# of a comparison. Elsewhere, and where a level has few test facts, the two models' intervals are
# added up as if they stood *apart*, which makes the interval wide.

# %%
where = paper.SPLIT_TITLES[split].lower()
few = phenomena.accuracy_rises(means, split, answers)
many = phenomena.accuracy_falls(means, split, answers)
first = pd.concat([few, many])
said = {f"Phenomenon 1, {where}": first, "It rises up to 240 facts": few, "It falls beyond": many}
Markdown("\n\n".join(verdicts.sentence(name, rows) for name, rows in said.items()))

# %%
html.table(first[verdicts.SHOWN], "Phenomenon 1: differences in points")

# %% [markdown]
# ## Phenomenon 2
#
# *With many facts, the level of the training data matters: level 0 is the worst, and falls most.*
# Compared at the largest size that two levels have.

# %%
second = phenomena.level_0_is_worst(means, split, answers)
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

# %% mystnb={"image": {"alt": "Right answers on the dev split against the learning rate, with the chosen rate marked"}}
scale.learning_rate_figure(rates, s.model.learning_rate)
