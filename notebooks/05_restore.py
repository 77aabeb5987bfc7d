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
# # Parameter level: undoing part of the change
#
# Reproduces Section 5 of the paper with its Tables 3, 4 and 6. `frac` is a share of the parameters,
# from 0 to 1, to restore besides the profile's own:
#
# ```bash
# papermill notebooks/05_restore.py -p frac 0.4 -p model MODEL -p profile PROFILE
# ```

# %% tags=["parameters"]
model = "default"
profile = "default"
frac = 0.2

# %%
import pandas as pd
from IPython.display import Markdown

from repro import book, paper
from repro.claims import phenomena
from repro.report import html, restoration
from repro.statistics import summary, verdicts
from repro.study import open_study
from repro.study.results import restoration_requests

share = round(100 * book.fraction(frac), 6)
s = open_study(model, profile)
Markdown(f"**{s.model.title}**, profile `{s.profile.name}`; `frac` is {share:g} %.")

# %% [markdown]
# ## Table 3: few parameters hold most of the change
#
# Parameters are ranked by relative change, $|s_i - p_i| / |p_i|$ (Appendix B.2). Shares of the sum of
# all relative changes, by the most changed share of the parameters:

# %%
measured = s.results.concentration()
ours = restoration.concentration_means(measured)
restoration.concentration_table(ours, f"Ours: {s.model.title}; share of the total change (%)")

# %%
published = paper.table("concentration")
restoration.concentration_table(
    published, "Table 3 of the paper: LLaMA-3-8B; share of the total change (%)"
)

# %% mystnb={"image": {"alt": "Share of the total change held by the most changed parameters, ours over the paper's"}}
restoration.concentration_figure(ours, published)

# %% [markdown]
# A parameter that was exactly zero has no relative change: the authors' tool adds $10^{-8}$ to
# $|p_i|$, so that such a parameter, once moved, outweighs thousands of others. Quantised weights hold
# many zeros. The counts, and the same shares with those parameters left out:

# %%
special = restoration.special_parameters(measured)
html.table(
    special, "Parameters ranked, exactly zero before, unmoved; means over samples", decimals=0
)

# %%
without = restoration.concentration_means(measured, "without_zero_base_percent")
restoration.concentration_table(
    without, f"Ours without zeros: {s.model.title}; share of the total change (%)"
)

# %% [markdown]
# ## Restoring them
#
# The most changed parameters get their pre-trained values back, the rest keep the fine-tuned ones.
# The share `frac` is evaluated here if it is not one of the profile's.

# %%
accuracy, answers = s.results.accuracy(), s.results.answers()
if share not in set(accuracy["restored_percent"]):
    requests = restoration_requests(s, share)
    accuracy = pd.concat([accuracy, s.results.accuracy(requests)])
    answers = pd.concat([answers, s.results.answers(requests)])
means, answers = summary.means(summary.restored(accuracy)), summary.restored(answers)

# %% [markdown]
# ## Table 4
#
# Green and bold: better than the same model without restoration; red with a minus sign: worse. One
# scale for the paper and for us. Subscripts are standard deviations over data samples (from two
# samples on), small print is the 95 % interval over questions. The row of `frac` is framed.

# %%
inside = means[means["split"] == "test"]
restoration.table(inside, f"Table 4(a), ours: {s.model.title}, in-domain Acc (%)", share)

# %%
published = paper.table("restore")
rows = published[published["split"] == "test"]
restoration.table(rows, "Table 4(a) of the paper: LLaMA-3-8B, in-domain Acc (%)", share)

# %%
outside = means[means["split"] == "testood"]
restoration.table(outside, f"Table 4(b), ours: {s.model.title}, out-of-domain Acc (%)", share)

# %%
rows = published[published["split"] == "testood"]
restoration.table(rows, "Table 4(b) of the paper: LLaMA-3-8B, out-of-domain Acc (%)", share)

# %% [markdown]
# As curves, ours and then the paper's; the rings mark `frac`.

# %% mystnb={"image": {"alt": "Our in-domain accuracy against the restored share, one line per training level"}}
restoration.figure(means, "test", share)

# %% mystnb={"image": {"alt": "The paper's in-domain accuracy against the restored share, one line per training level"}}
restoration.figure(published, "test", share)

# %% mystnb={"image": {"alt": "Our out-of-domain accuracy against the restored share, one line per training level"}}
restoration.figure(means, "testood", share)

# %% [markdown]
# ## Table 6: on the training facts themselves

# %%
train = means[means["split"] == "train"]
restoration.table(train, f"Table 6, ours: {s.model.title}, training facts (%)", share)

# %%
rows = paper.table("restore_train")
restoration.table(rows, "Table 6 of the paper: LLaMA-3-8B, training facts (%)", share)

# %% [markdown]
# ## Finding 1
#
# *Much of the change is unnecessary: restoring improves every model.* Judged at `frac`, on the
# test facts and on the training facts. Intervals and verdicts as in
# [the notebook on data size](02_scale).

# %%
first = phenomena.restoring_helps(means, share, "test", answers)
Markdown(verdicts.sentence(f"Finding 1 at {share:g} %, in domain", first))

# %%
html.table(first[verdicts.SHOWN], "Finding 1: differences in points")

# %%
fitted = phenomena.restoring_helps(means, share, "train", answers)
Markdown(verdicts.sentence(f"The same at {share:g} %, on the training facts", fitted))

# %%
html.table(fitted[verdicts.SHOWN], "Finding 1 on the training facts: differences in points")

# %% [markdown]
# ## Which share is best?
#
# The paper takes the share that is best on the test facts, which makes the gain look larger than a
# reader could obtain. Beside it: the share that is best on the dev facts, which is a fair choice. Both
# are reported on the test facts.

# %%
choices = [summary.best_share(means, on) for on in ("dev", "test")]
keys = ["train_size", "train_level", "chosen_on"]
html.table(pd.concat(choices).sort_values(keys), "Best restored share, chosen in two ways")

# %% [markdown]
# ## Finding 2
#
# *Models trained on more facts, or on facts they did not know, gain more.* With the share chosen on
# dev.

# %%
second = phenomena.larger_gain(means, answers)
Markdown(verdicts.sentence("Finding 2", second))

# %%
html.table(second[verdicts.COLUMNS], "Finding 2: differences of gains in points")
