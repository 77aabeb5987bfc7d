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
# # Across models: what holds where
#
# The phenomena of Section 3.4 and the findings of Sections 4.2 and 5.2 on every model: the paper's as far
# as its tables allow, and all that are measured in this repository.
#
# <details><summary>Run this page with another model first</summary>
#
# ```bash
# papermill notebooks/15_across_models.py -p model MODEL -p profile PROFILE
# ```
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from repro.claims import by_model, claims
from repro.report import across_models, html, layout
from repro.study import open_study

s = open_study(model, profile)
published, studies = by_model.of_papers_models(), [s, *claims.others(s)]
repeated = by_model.repeated(studies)
effects = across_models.effects(by_model.of_models(studies), published, repeated)
points = {k: v for k, v in by_model.TITLES.items() if k not in by_model.IN_NATS}
nats = {k: v for k, v in by_model.TITLES.items() if k in by_model.IN_NATS}
layout.statements(across_models.results(effects, by_model.TITLES, nats))

# %%
layout.figure(
    across_models.figure(effects, points, "points"),
    "15.1",
    "Mean effect on accuracy of each phenomenon, model by model; above zero is as the paper says."
    " Squares: the paper's models. Diamonds: all of ours. Bars are 95 % intervals.",
    alt="Forest plots: one panel per phenomenon on accuracy, one row per model, with intervals",
)

# %% [markdown]
# ## How to read it
#
# An effect is the mean over all comparisons of a phenomenon, in the direction that the paper states. Its
# interval is over questions and data samples; for the paper's models it is what rounding to the printed
# digits hides, and where a table prints a spread also Student's *t*. A phenomenon *holds* on a model when
# every comparison is supported, which is more than a mean above zero.
#
# Of a model with several studies the last one counts and is drawn, that of the most extensive profile, which
# in a study of facts chosen by score (`real`) is of the facts drawn. The effect over models, once three of ours have
# one, is that of a random-effects model: true effects may differ from model to model, and
# the interval says where the mean of many such models may lie. With few models it is wide.

# %%
layout.figure(
    across_models.figure(effects, nats, "nats"),
    "15.2",
    "Mean effect on the divergence. The paper prints no numbers to compare with.",
    alt="Forest plots: one panel per finding on the divergence, one row per model, with intervals",
)

# %% [markdown]
# ## The numbers

# %%
named = effects.replace({"phenomenon": by_model.TITLES}).drop(columns=["ours", "counts"])
html.table(named, "Mean effects by phenomenon and model, in points or nats")

# %%
pooled = across_models.over_models(effects).replace({"phenomenon": by_model.TITLES})
html.table(pooled, "Effects over our models, in points or nats")
