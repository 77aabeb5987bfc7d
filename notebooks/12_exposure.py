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
# # Exposure: how often a fact was read, and how well it is known
#
# Section 3.1 of the paper sorts facts by how well a model masters them. For a model trained on the web
# nobody can say why it knows one and not another. The `micro` models were pre-trained on an
# [invented world](../atlas), in which we decide how many sentences state each fact. To run it under
# another profile:
#
# ```bash
# papermill notebooks/12_exposure.py -p model MODEL -p profile PROFILE
# ```

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from IPython.display import Markdown

from repro.report import exposure, html
from repro.study import open_study

s = open_study(model, profile)
facts = exposure.known(s)
Markdown(exposure.told(s, facts))

# %% [markdown]
# ## Mastery against exposure
#
# A fact is stated through templates chosen at random, none of them as a question. *R* is the share of
# sampled completions that hold the answer. Each model has read the same text. Bands are 95 %
# intervals over topics, since the facts of a topic share their sentences and their likely answers. At
# no exposure, what is left is guessing.

# %% mystnb={"image": {"alt": "Mean R against the number of statements in the pre-training text, one line per model"}}
curves = exposure.curves(facts)
exposure.figure(curves)

# %% [markdown]
# What the curves say. A step up or down is *certain* when its 95 % interval, topic by topic, excludes
# zero. Half is mastered where the mean *R* crosses one half, taken to rise evenly between two
# exposures:

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

# %% mystnb={"image": {"alt": "Bars: share of facts per mastery level by number of statements, one panel per model"}}
exposure.levels_figure(exposure.levels(facts))

# %% [markdown]
# ## Topics
#
# Topics differ in how many answers are likely, and so in how much can be guessed.

# %%
title = exposure.shown(s, facts)
Markdown(f"Mean *R* of {title}, all facts of a topic with as many statements together:")

# %% mystnb={"image": {"alt": "Heat map: mean R by topic and number of statements"}}
exposure.topics_figure(exposure.topics(facts, title))
