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
# # Where the restored parameters lie
#
# Appendix E.1 of the paper with its Table 9 and Table 10.
#
# <details><summary>Run this page on another model</summary>
#
# ```bash
# papermill notebooks/08_where.py -p frac 0.4 -p model MODEL -p profile PROFILE
# ```
#
# `frac` is the share of the parameters, from 0 to 1, whose places are counted; it must be one of the
# profile's.
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"
frac = 0.2

# %%
from IPython.display import Markdown

from repro import book
from repro.claims import claims, sources
from repro.report import html, layout, locations
from repro.study import open_study

share = round(100 * book.fraction(frac), 6)
s = open_study(model, profile)
counted = s.results.locations()
places, shares = locations.chosen(counted, share), locations.by_share(counted)
layout.statement(locations.extremes(shares, share), locations.QUESTION)

# %%
modules, layers = (locations.summary(places, by) for by in ("module", "layer"))
published = locations.published_summaries()
layout.figure(
    locations.modules_figure(modules, published["module"]),
    "8.1",
    f"Lift of each module among the top {share:g} %, by training level; the paper's in grey.",
    alt="Lift of each module, our runs by training level beside the paper's Table 10",
)

# %% [markdown]
# ## The question
#
# Do the parameters that fine-tuning changes most lie in some layers or modules rather than in others?
#
# ## The method
#
# The paper counts which part of the restored parameters lies in each layer and in each module. A module
# with many parameters holds many of any choice, also of a random one. So under each percentage stands
# its *lift*: that percentage over the percentage of all parameters that lie there. A lift of 1 is an even
# share; green and bold is above, red is below.

# %%
Markdown(
    f"**{s.model.title}**, profile `{s.profile.name}`: the {share:g} % most changed parameters. The "
    f"paper's lifts follow from the architecture of LLaMA-3-8B: {locations.architecture()}. "
    "Embeddings, norms and the output head are never restored and not counted. The paper does not "
    "say which restored share, training level or data size its two tables are of."
)

# %% [markdown]
# ## Table 9: by layer

# %%
locations.tables(places, "layer", s.model.title, share)

# %%
layout.figure(
    locations.layers_figure(layers, published["layer"]),
    "8.2",
    "Lift of each layer by its depth, one line per run; the paper's in grey.",
    alt="Lift of each layer against its depth, one line per run of ours over the paper's",
)

# %% [markdown]
# ## Table 10: by module

# %%
locations.tables(places, "module", s.model.title, share)

# %% [markdown]
# ## Does it depend on the share?
#
# The lift of every module at every share of the profile, averaged over all runs, and the paper's. The
# more parameters are chosen, the nearer all lifts must come to 1: of all parameters, every module
# holds its even share.

# %%
html.table(shares, "Lift by share of the parameters chosen, beside Table 10")

# %% [markdown]
# ## Other models
#
# The same share in every model whose study is in this repository, each column the mean over the runs of
# one study.

# %%
html.table(
    locations.by_model([s, *claims.others(s)], share), f"Lift of each module, top {share:g}%"
)

# %% [markdown]
# ## What holds, and what does not
#
# The paper reads two patterns from its tables: more in the first layers and fewer in the last, and most
# in the feed-forward layers. The first is about lift. The second is a matter of size unless the lift is
# above 1 as well. Verdicts follow the rule of [the page of claims](10_claims); our intervals are over
# data samples.

# %%
found = claims.findings([sources.of_paper(), sources.of_locations(s)], "08_where")
Markdown(f"Judged at {sources.SHARE} % restored, whatever `frac` is.")

# %%
unused = ["id", "value", "unit", "notebook"]
html.table(claims.table(found).drop(columns=unused), "Claims on Tables 9 and 10")
