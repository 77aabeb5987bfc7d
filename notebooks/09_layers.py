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
# # Which layers matter: restoring them block by block
#
# Reproduces Table 11 of the paper (Appendix E.2). To run it on another model:
#
# ```bash
# papermill notebooks/09_layers.py -p model MODEL -p profile PROFILE
# ```

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from IPython.display import Markdown

from repro.claims import claims, sources
from repro.report import html, layers
from repro.study import open_study
from repro.study.results import layer_requests

s = open_study(model, profile)
means = layers.means(s.results.layers())
answers = s.results.answers(layer_requests(s))
sizes = ", ".join(f"{size:,}" for size in s.profile.layer_sizes) or "none"
blocks = ", ".join(s.requests.layer_groups()) or "none: this profile does not restore layers"
Markdown(
    f"**{s.model.title}**, profile `{s.profile.name}`. Training facts: {sizes}. Blocks: {blocks}."
)

# %% [markdown]
# ## Table 11
#
# All parameters of a block of layers (norms excepted) get their pre-trained values back; the other layers
# keep the fine-tuned ones. The first column is the same model with nothing restored. Green and bold:
# better than that; red with a minus sign: worse, on the scale of Table 4. Subscripts are standard
# deviations over data samples, small print is the 95 % interval over questions.

# %%
inside = means[means["split"] == "test"]
layers.table(inside, f"Table 11, ours: {s.model.title}, in-domain Acc (%)")

# %% [markdown]
# The paper's table has no such first column, and does not say how many facts its models were trained on.
# It is taken from Table 4, for 240 facts, which fits the middle blocks.

# %%
published = layers.published()
layers.table(published, "Table 11 of the paper: LLaMA-3-8B, in-domain Acc (%)")

# %%
outside = means[means["split"] == "testood"]
layers.table(outside, f"Out of domain, ours: {s.model.title}, Acc (%)")

# %% [markdown]
# ## What a block costs
#
# The change of accuracy from restoring a block. Bars are 95 % intervals, paired where the answers are
# kept: questions and data samples are drawn anew together, as in [the notebook on data size](02_scale).
# The paper's numbers have none: it gives no spread. Mind the scales.

# %%
costs = layers.costs(means, answers)
largest = costs["train_size"] == costs["train_size"].max()
shown = costs[largest & (costs["split"] == "test")]

# %% mystnb={"image": {"alt": "Our change of in-domain accuracy from restoring each block of layers, one line per training level"}}
layers.figure(shown, s.model.title)

# %% mystnb={"image": {"alt": "The paper's change of in-domain accuracy from restoring each block of layers, one line per training level"}}
layers.figure(layers.costs(published), "Paper: LLaMA-3-8B, 240 facts")

# %%
Markdown(layers.sentence(costs[costs["split"] == "test"]))

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
# The paper: *the lowest layers matter most, those in the middle least.* Held against its own table, level
# by level, and against our runs by the rule of [the page of claims](10_claims). Where our model has
# fewer blocks than the paper's, only those that exist are compared; the last one is always *last*.

# %%
found = claims.findings([sources.of_paper(), sources.of_layers(s)], "09_layers")
unused = ["id", "value", "unit", "notebook"]
html.table(claims.table(found).drop(columns=unused), "Claims on Table 11")
