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
# # Exposure: how often a fact was read, and how well it is known
#
# Section 3.1 of the paper sorts facts by how well a model masters them. For a model trained on the web
# nobody can say why it knows one and not another. The `micro` models were pre-trained on an
# [invented world](../atlas), in which we decide how many sentences state each fact.
#
# <details><summary>Run this page on another model</summary>
#
# ```bash
# papermill notebooks/12_exposure.py -p model MODEL -p profile PROFILE
# ```
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from IPython.display import Markdown

from repro.report import exposure, html, layout
from repro.study import open_study

s = open_study(model, profile)
facts = exposure.known(s)
curves = exposure.curves(facts)
layout.statement(exposure.result(facts), exposure.QUESTION)

# %%
layout.figure(
    exposure.figure(curves),
    "12.1",
    "Mean R by how many sentences state the fact. Bands are 95 % intervals over topics.",
    alt="Mean R against the number of statements in the pre-training text, one line per model",
)

# %% [markdown]
# ## The method
#
# A fact is stated through templates chosen at random, none of them as a question. *R* is the share of
# sampled completions that hold the answer. Each model has read the same text. Intervals are over topics,
# since the facts of a topic share their sentences and their likely answers. At no exposure, what is left
# is guessing.

# %%
Markdown(exposure.about(s, facts))

# %% [markdown]
# ## What the curves say
#
# A step up or down is *certain* when its 95 % interval, topic by topic, excludes zero. Half is mastered
# where the mean *R* crosses one half, taken to rise evenly between two exposures.

# %%
Markdown(exposure.reading(facts) if len(facts) else html.ABSENT)

# %%
html.table(curves, "Mean R by exposure, with 95 % intervals", decimals=3)

# %%
html.table(exposure.steps(facts), "From one exposure to the next: rise of mean R", decimals=3)

# %% [markdown]
# ## Levels
#
# The same facts, sorted into the paper's levels. This is how all five come to be filled.

# %%
layout.figure(
    exposure.levels_figure(exposure.levels(facts)),
    "12.2",
    "Share of facts at each mastery level, by how many sentences state them.",
    alt="Bars: share of facts per mastery level by number of statements, one panel per model",
)

# %% [markdown]
# ## Topics
#
# Topics differ in how many answers are likely, and so in how much can be guessed.

# %%
title = exposure.shown(s, facts)
layout.figure(
    exposure.topics_figure(exposure.topics(facts, title)),
    "12.3",
    f"Mean R of {title}, all facts of a topic with as many statements together.",
    alt="Heat map: mean R by topic and number of statements",
)
