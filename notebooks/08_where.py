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
# # Where the restored parameters lie
#
# Reproduces Table 9 and Table 10 of the paper (Appendix E.1). `frac` is the share of the parameters, from 0
# to 1, whose places are counted; it must be one of the profile's:
#
# ```bash
# papermill notebooks/08_where.py -p frac 0.4 -p model MODEL -p profile PROFILE
# ```

# %% tags=["parameters"]
model = "default"
profile = "default"
frac = 0.2

# %%
from IPython.display import Markdown

from repro import book
from repro.claims import claims, sources
from repro.report import html, locations
from repro.study import open_study

share = round(100 * book.fraction(frac), 6)
s = open_study(model, profile)
counted = s.results.locations()
places = locations.chosen(counted, share)
Markdown(
    f"**{s.model.title}**, profile `{s.profile.name}`: the {share:g} % most changed parameters."
)

# %% [markdown]
# ## What to compare a percentage with
#
# The paper counts which part of the restored parameters lies in each layer and in each module. A module
# with many parameters holds many of any choice, also of a random one. So under each percentage stands
# its *lift*: that percentage over the percentage of all parameters that lie there. A lift of 1 is an even
# share; green and bold is above, red is below. Subscripts are standard deviations over data samples (from
# two samples on).

# %%
published_layers, published_modules = (
    locations.summary(frame, by)
    for frame, by in zip(locations.published(), ("layer", "module"), strict=True)
)
Markdown(
    f"The paper's lifts follow from the architecture of LLaMA-3-8B: {locations.architecture()}. "
    "Embeddings, norms and the output head are never restored and not counted. The paper does not "
    "say which restored share, training level or data size its two tables are of."
)

# %% [markdown]
# ## Table 9: by layer

# %%
layers = locations.summary(places, "layer")
ours = locations.table(layers, f"Table 9, ours: {s.model.title}, top {share:g}% (%)", "layer")
theirs = locations.table(published_layers, "Table 9 of the paper (%)", "layer")
html.beside(ours, theirs)

# %% mystnb={"image": {"alt": "Lift of each layer against its depth, one line per run of ours over the paper's"}}
locations.layers_figure(layers, published_layers)

# %% [markdown]
# ## Table 10: by module

# %%
modules = locations.summary(places, "module")
locations.table(modules, f"Table 10, ours: {s.model.title}, top {share:g}% (%)", "module")

# %%
locations.table(published_modules, "Table 10 of the paper (%)", "module")

# %% mystnb={"image": {"alt": "Lift of each module, our runs by training level beside the paper's Table 10"}}
locations.modules_figure(modules, published_modules)

# %% [markdown]
# ## Does it depend on the share?
#
# The lift of every module at every share of the profile, averaged over all runs, and the paper's. The
# more parameters are chosen, the nearer all lifts must come to 1: of all parameters, every module
# holds its even share.

# %%
shares = locations.by_share(counted)
html.table(shares, "Lift by share of the parameters chosen, beside Table 10")

# %%
Markdown(locations.extremes(shares, share))

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
