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
# # Which layers matter: restoring them block by block
#
# Appendix E.2 of the paper with its Table 11.
#
# <details><summary>Run this page on another model</summary>
#
# ```bash
# papermill notebooks/09_layers.py -p model MODEL -p profile PROFILE
# ```
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from IPython.display import Markdown

from repro.claims import claims, sources
from repro.report import html, layers, layout
from repro.study import open_study
from repro.study.results import layer_requests

s = open_study(model, profile)
means = layers.means(s.results.layers())
costs = layers.costs(means, s.results.answers(layer_requests(s)))
inside = costs[costs["split"] == "test"]
layout.statement(layers.result(inside), layers.QUESTION)

# %%
shown = inside[inside["train_size"] == inside["train_size"].max()]
layout.figure(
    layers.figure(shown, f"Ours: {s.model.title}", layers.costs(layers.published())),
    "9.1",
    "Change of in-domain Acc from restoring each block of layers. Bars are 95 % intervals; the"
    " paper gives no spread.",
    alt="Change of in-domain accuracy from restoring each block of layers, the paper's beside ours"
    " on one scale, one line per training level",
)

# %% [markdown]
# ## The question
#
# *The lowest layers matter most, those in the middle least.*
#
# ## The method
#
# All parameters of a block of layers (norms excepted) get their pre-trained values back; the other layers
# keep the fine-tuned ones. What a block costs is the change of accuracy against the same model with
# nothing restored. Intervals are paired where the answers are kept: questions and data samples are drawn
# anew together, as in [the notebook on data size](02_scale).

# %%
sizes = ", ".join(f"{size:,}" for size in s.profile.layer_sizes) or "none"
blocks = ", ".join(s.requests.layer_groups()) or "none: this profile does not restore layers"
Markdown(
    f"**{s.model.title}**, profile `{s.profile.name}`. Training facts: {sizes}. Blocks: {blocks}."
)

# %% [markdown]
# ## Table 11
#
# The first column is the model with nothing restored. Green and bold: better than that; red with a minus
# sign: worse, on the scale of Table 4. The paper's table has no such first column, and does not say how
# many facts its models were trained on. It is taken from Table 4, for 240 facts, which fits the middle
# blocks.

# %%
layers.tables(means, s.model.title)

# %% [markdown]
# ## What each block costs

# %%
Markdown(layers.sentence(inside))

# %%
html.table(costs.drop(columns=["claim", "runs"]), "Change of Acc from restoring a block, in points")

# %% [markdown]
# ## Other models
#
# Every study in this repository that restored layers: in how many runs a block costs accuracy in domain, or
# gains it, by the same intervals.

# %%
html.table(layers.by_model([s, *claims.others(s)]), "In domain: change in points, mean over runs")

# %% [markdown]
# ## What holds, and what does not
#
# Held against the paper's own table, level by level, and against our runs by the rule of
# [the page of claims](10_claims). Where our model has fewer blocks than the paper's, only those that
# exist are compared; the last one is always *last*.

# %%
found = claims.findings([sources.of_paper(), sources.of_layers(s)], "09_layers")
unused = ["id", "value", "unit", "notebook"]
html.table(claims.table(found).drop(columns=unused), "Claims on Table 11")
