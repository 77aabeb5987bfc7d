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
# # Restoration against other ways to fine-tune
#
# Appendix C.3 of the paper with its Table 7.
#
# <details><summary>Run this page on another model</summary>
#
# ```bash
# papermill notebooks/07_strategies.py -p instruct none -p model MODEL -p profile PROFILE
# ```
#
# `instruct` is the model that its makers tuned to follow instructions: a name of the registry, a
# folder, or `none`; by default the registry's choice.
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"
instruct = "default"

# %%
from IPython.display import Markdown

from repro.claims import claims, sources
from repro.report import html, layout, strategies
from repro.study import open_study

s = strategies.instruct(open_study(model, profile), instruct)
means = strategies.gather(s)
best = strategies.best(means)
lead = strategies.leads(best)
layout.findings(s.model.title, strategies.findings(lead))

# %%
layout.figure(
    strategies.figure(best),
    "7.1",
    "Acc of every strategy at its best setting. Bars are 95 % intervals; the paper has none.",
    alt="Accuracy of each strategy in and out of domain, chosen on dev, chosen on the reported"
    " split itself, and the paper's",
)

# %% [markdown]
# ## The question
#
# Is it better to restore parameters than to fine-tune otherwise from the start?
#
# ## The method
#
# - *Instruct*: the instruct variant as it is, asked with the same prompt;
# - *SFT (Mixed)*: fine-tuned on facts of all levels, drawn at random;
# - *SFT (Divided)*: fine-tuned on facts of one level;
# - *LoRA*: as mixed, but training low-rank adapters, which are merged into the weights afterwards;
# - *Parameter Restoration*: as divided, then a share of the parameters set back.
#
# Divided and restored are the same runs, before and after. The paper gives neither rank nor learning rate
# of its adapters; ours are on [the page of decisions](../decisions).
#
# Every strategy has several settings: data size, level, restored share. The paper reports, split by split,
# the best of them *on that very split*. A strategy with more settings gets more draws, so its best is
# higher by luck alone; restoration has the most. Beside that choice stands a fair one: the setting that
# is best on the dev facts, which are not reported on.

# %%
Markdown(
    f"**{s.model.title}**, profile `{s.profile.name}`. Without a row:\n\n{strategies.absent(s, means)}"
)

# %% [markdown]
# ## Table 7
#
# The best of each column is bold. Small print is the setting.

# %%
strategies.table(best, f"Table 7, ours ({s.model.title}) beside the paper's (LLaMA-3-8B); Acc (%)")

# %%
counts = best.drop_duplicates("strategy")[["strategy", "settings"]]
html.table(counts, "Settings that each strategy had to choose from")

# %% [markdown]
# ## What the choice is worth
#
# Points by which choosing on the reported split itself makes a strategy look better than choosing on dev:

# %%
html.table(strategies.luck(best), "Points gained by choosing on the split that is reported")

# %% [markdown]
# ## Is restoration better?
#
# Points by which restoration leads, by either choice. Intervals take the runs as independent, as they were
# trained on different facts; those of settings chosen on the reported split are too good, since they do
# not know of the choice.

# %%
Markdown("\n\n".join(strategies.sentence(lead, way) for way in ("dev", strategies.OWN)))

# %%
html.table(lead, "Restoration's lead over the other strategies, in points")

# %% [markdown]
# ## What holds, and what does not
#
# By the rule of [the page of claims](10_claims); on our runs, with settings chosen on dev.

# %%
judged = claims.findings([sources.of_paper(), sources.of_strategies(s)], "07_strategies")
unused = ["id", "value", "unit", "notebook"]
html.table(claims.table(judged).drop(columns=unused), "Claims on Table 7")
