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
# # Controls: which parameters, or how much?
#
# Restoration (Section 5 of the paper, Table 4) sets the most changed parameters back, and the model may
# answer better. Is that because *these* parameters were set back, or because *so much* of the change
# was undone?
#
# <details><summary>Run this page on another model</summary>
#
# ```bash
# papermill notebooks/11_controls.py -p model MODEL -p profile PROFILE
# ```
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from IPython.display import Markdown

from repro.claims import claims
from repro.report import controls, html, layout
from repro.statistics import bootstrap
from repro.study import open_study

s = open_study(model, profile)
means, answers, together = controls.gather(s)

# %%
share = controls.same_share(means, answers)
amount = controls.same_amount(means, answers)
squares = controls.same_amount(means, answers, "undone_l2")
layout.findings(s.model.title, controls.findings(share, amount))

# %%
layout.figure(
    controls.figure(means, "undone_l1"),
    "11.1",
    "Accuracy against the part of the sum of all |s − p| that was undone. Where only the amount"
    " matters, the lines fall on one another. Bands are 95 % intervals over questions.",
    alt="Accuracy against the share of the change that was undone, one line per way of choosing,"
    " one panel per run",
)

# %% [markdown]
# ## Five ways to set parameters back
#
# - *top*: those with the largest relative change, the paper's choice;
# - *absolute*: those with the largest $|s - p|$;
# - *random*: any, others in every data sample;
# - *bottom*: those with the smallest relative change;
# - *interpolate*: all of them, each by the same part of its change. It chooses nothing.
#
# All are tried on the same fine-tuned models and the same questions. The same share of parameters is not
# the same amount of change, so they are compared both ways.

# %%
few = f"a level has fewer than {bootstrap.ENOUGH} test facts, so all questions count alike"
Markdown(
    f"**{s.model.title}**, profile `{s.profile.name}`. Accuracy is over in-domain test facts: "
    + (f"{few}." if together else "*Acc*, the mean over mastery levels.")
)

# %%
layout.figure(
    controls.figure(means, "restored_percent"),
    "11.2",
    "Accuracy against the share of the parameters; interpolation by 20 % stands at 20 %.",
    alt="Accuracy against the share of restored parameters, one line per way of choosing, one"
    " panel per run",
)

# %%
amounts = means[means["strategy"] != "none"].groupby(["strategy", "restored_percent"])
undone = amounts[["undone_l1", "undone_l2"]].mean().reset_index()
html.table(undone, "Undone of Σ|s − p| and of Σ(s − p)², in percent, mean over runs", decimals=1)

# %%
unknown = sorted(undone.loc[undone["undone_l1"].isna(), "strategy"].unique())
Markdown(f"Measured before amounts were kept: {', '.join(unknown) or 'none'}.")

# %% [markdown]
# ## With as many parameters
#
# Does it help more to set back the most changed parameters than as many others? Differences in points,
# *top* minus the other; shaded where the 95 % interval excludes zero. Intervals are paired where
# the answers are kept: questions and data samples are drawn anew together, as in
# [the notebook on data size](02_scale). One comparison in twenty would be decided by chance; a
# difference counts as shown when chance would decide as many as we see in at most 5 % of cases.

# %%
others = [name for name in controls.STRATEGIES if name != controls.TOP]
rows = {name: share[share["strategy"] == name] for name in others}
said = [controls.sentence(f"*top* against *{name}*", rows[name]) for name in others]
Markdown("\n\n".join(said))

# %%
controls.table(share, "Points by which the most changed parameters do better than as many others")

# %% [markdown]
# ## With as much undone
#
# Interpolation undoes any amount without choosing. So each of the others is set against interpolation
# that undoes the same part of $\sum|s - p|$; between two measured shares its accuracy is taken to change
# evenly. What undid more than interpolation ever did has nothing to be compared with and is left out.

# %%
controls.table(
    amount, "Points by which choosing does better than interpolation with the same sum undone"
)

# %% [markdown]
# The same with $\sum(s - p)^2$, in which large changes weigh more:

# %%
controls.table(
    squares, "Points by which choosing does better than interpolation with the same squares undone"
)

# %% [markdown]
# ## Other models
#
# The same in every study of this repository with controls: how often the most changed parameters do
# better than another choice, and how often worse.

# %%
counts = controls.by_model([s, *claims.others(s)])
html.table(counts, "The most changed parameters against other choices, in domain")

# %% [markdown]
# ## Which, or how much?
#
# By the same rule, on the paper's choice alone:

# %%
said = [controls.answer(amount, "undone_l1"), controls.answer(squares, "undone_l2")]
Markdown("\n\n".join(said))
