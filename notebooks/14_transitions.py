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
# # Transitions: known, lost, brought back
#
# Section 3.4 of the paper says that fine-tuning costs knowledge, Section 5 that restoring parameters brings
# accuracy back. This page follows single facts through both, on every model whose records keep the answer
# to every question.
#
# <details><summary>Run this page on another model</summary>
#
# ```bash
# papermill notebooks/14_transitions.py -p model MODEL -p profile PROFILE
# ```
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from IPython.display import Markdown

from repro.claims import claims
from repro.report import html, layout, single_answers, transitions
from repro.study import open_study

s = open_study(model, profile)
models = [single_answers.gather(study) for study in [s, *claims.others(s)]]
first = models[0]
layout.findings(s.model.title, transitions.findings(first))

# %%
layout.figure(
    transitions.calibration_figure(models),
    "14.1",
    "Share of in-domain test facts that fine-tuned models answer wrong, by what the pre-trained model shows"
    " of them. Bars are 95 % intervals over questions and data samples.",
    alt="Lines: share of facts lost against R or score before fine-tuning, one line per mastery level,"
    " one panel per model",
)

# %%
layout.figure(
    transitions.recovery_figure(models),
    "14.2",
    "Share of wrong answers that are right after restoration. Dashed: all facts together, where every line"
    " would be if restoration did not depend on what the model knew.",
    alt="Lines: share of wrong answers that come right against the restored share, one line per mastery"
    " level, one panel per model",
)

# %% [markdown]
# ## The questions
#
# Fine-tuning on new facts makes a model answer some questions wrong whose answer it knew. Can one tell
# beforehand which? And when parameters are set back and accuracy rises, are the facts that come right the
# ones that were lost?
#
# ## The method
#
# A test fact is *known* when the pre-trained model has it at level 3 or 4, so that more than half of its
# sampled completions hold the answer. It is *lost* when the fine-tuned model answers it wrong, and *brought
# back* when the same model answers it right after restoration. Every training level counts with the largest
# size of which parameters were restored, and all levels count alike.
#
# *Is it lost?* The facts of a level are divided into two halves by what the pre-trained model shows of them:
# the score where facts were scored, else *R*. If the mastery level said all there is to know, both halves
# would be lost equally often.
#
# *Does it come back?* The share of lost facts that come back is set against the share of the other wrong
# answers that come right, where at least ten facts come right at all. If restoration were independent of
# what the model knew, both would be the same.
# That they differ says that restoration does not make random answers right. It does not say how: a known
# fact may also be more easily answered by any model near the pre-trained one.

# %%
Markdown(transitions.about(models))

# %% [markdown]
# ## Is it lost?

# %%
html.table(transitions.calibration(first), f"{first.title}: lost facts (%), by {first.measure}")

# %% [markdown]
# ## Does it come back?
#
# Answers to in-domain test questions, summed over runs. *Expected* is the number brought back if the answers
# that come right were drawn from all wrong ones. *Broken*: right before restoration and wrong after it.

# %%
html.table(transitions.counts(first), f"{first.title}: from known to lost to brought back", 1)

# %% [markdown]
# ## Every model
#
# *Lost*: the percentage lost of the half of a level with the higher score or *R*, less that of the other
# half. *Comes back*: the percentage of lost facts that come back at a restored share, less that of the other
# wrong answers that come right. Both in points. The joint interval holds for all comparisons of one question
# on one model together; a comparison contradicts only with that one.

# %%
html.table(transitions.by_model(models), "Lost facts and facts that come back, by model")
