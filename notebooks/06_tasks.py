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
# # Other tasks: arithmetic and summaries
#
# Section 5.2 of the paper with its Table 5: a model is fine-tuned on GSM8K, another on XSum, and
# shares of their parameters are restored.
#
# <details><summary>Run this page on another model</summary>
#
# To measure another model, name the examples once:
#
# ```bash
# REPRO_TASKS=FOLDER papermill notebooks/06_tasks.py -p model MODEL -p profile PROFILE
# ```
#
# `FOLDER` holds `gsm8k/train.jsonl` and `gsm8k/test.jsonl` (`question`, `answer`), and `xsum/` with any
# `.jsonl` (`document`, `summary`, `split`). `REPRO_TASKS=hub` fetches both from the Hub. Without it the page
# shows what was measured before.
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from IPython.display import Markdown

from repro.report import html, layout, tasks
from repro.statistics import verdicts

trial, about = tasks.shown(model, profile)
results = trial.results
means, differences = results.means(), results.differences()
layout.findings(trial.model.title, tasks.findings(differences))

# %%
layout.figure(
    tasks.figure(means),
    "6.1",
    "Score after restoring a share of the parameters, the paper's LLaMA-3-8B beside ours.",
    alt="Accuracy on GSM8K and ROUGE on XSum against the restored share, the paper's beside ours"
    " on one scale",
)

# %% [markdown]
# ## The question
#
# *The benefits of restoring generalise across tasks.*
#
# ## The method
#
# The questions stand where the questions on facts stood, in the prompt of Appendix A; a document is its
# own question. Of GSM8K's answers the notes for a calculator (`<<2*3=6>>`) are left out. An answer to
# GSM8K is right when the number after its first `####` is the reference's. Summaries get the F-measure
# of ROUGE, words stemmed.

# %%
Markdown(about)

# %%
html.table(results.training(), "Fine-tuning, and rows of the data that could not be used")

# %% [markdown]
# ## Table 5
#
# Green and bold: better than the same model without restoration; red with a minus sign: worse, on the
# scale of every table of this book.

# %%
tasks.tables(means, trial.model.title)

# %% [markdown]
# A 0 can have two reasons: the answers are wrong, or there is nothing in them to compare. *Blank* counts
# those without a number after `####`, or without a word; *cut* those that had not ended at the longest
# length.

# %%
html.table(results.answers(), "What the answers were like", decimals=1)

# %% [markdown]
# ## Does restoring help?
#
# Each share against no restoration, on the same questions; the interval is paired where enough answers
# differ, as in [the notebook on data size](02_scale). One comparison in twenty would be decided by
# chance. The four measures are not independent: three of them are of the same summaries.

# %%
Markdown(verdicts.sentence("Restoring helps, at every share", differences))

# %%
html.table(differences.drop(columns=["claim", "runs"]), "Differences in points")
