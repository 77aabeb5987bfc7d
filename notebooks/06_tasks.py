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
# # Other tasks: arithmetic and summaries
#
# Reproduces Table 5 of the paper (Section 5.2): a model is fine-tuned on GSM8K, another on XSum, and
# shares of their parameters are restored. To measure another model, name the examples once:
#
# ```bash
# REPRO_TASKS=FOLDER papermill notebooks/06_tasks.py -p model MODEL -p profile PROFILE
# ```
#
# `FOLDER` holds `gsm8k/train.jsonl` and `gsm8k/test.jsonl` (`question`, `answer`), and `xsum/` with any
# `.jsonl` (`document`, `summary`, `split`). `REPRO_TASKS=hub` fetches both from the Hub. Without it the page
# shows what was measured before.

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from IPython.display import Markdown

from repro.report import html, tasks
from repro.statistics import verdicts
from repro.study import task_study

trial, told = task_study.shown(model, profile)
Markdown(told)

# %% [markdown]
# The questions stand where the questions on facts stood, in the prompt of Appendix A; a document is its
# own question. Of GSM8K's answers the notes for a calculator (`<<2*3=6>>`) are left out. An answer to
# GSM8K is right when the number after its first `####` is the reference's. Summaries get the F-measure
# of ROUGE, words stemmed. What the models were trained on:

# %%
html.table(trial.training(), "Fine-tuning, and rows of the data that could not be used")

# %% [markdown]
# ## Table 5
#
# Green and bold: better than the same model without restoration; red with a minus sign: worse, on the
# scale of every table of this book. Small print is the 95 % interval over questions.

# %%
means = trial.means()
tasks.table(means, f"Table 5, ours: {trial.model.title if len(means) else 'not measured'} (%)")

# %%
tasks.table(tasks.published(), "Table 5 of the paper: LLaMA-3-8B (%)")

# %% [markdown]
# A 0 can have two reasons: the answers are wrong, or there is nothing in them to compare. *Blank* counts
# those without a number after `####`, or without a word; *cut* those that had not ended at the longest
# length.

# %%
html.table(trial.answers(), "What the answers were like", decimals=1)

# %% [markdown]
# ## Does restoring help?
#
# *The benefits generalise across tasks.* Each share against no restoration, on the same questions; the
# interval is paired where enough answers differ, as in [the notebook on data size](02_scale). One
# comparison in twenty would be decided by chance. The four measures are not independent: three of them
# are of the same summaries.

# %%
differences = trial.differences()
Markdown(verdicts.sentence("Restoring helps, at every share", differences))

# %%
html.table(differences.drop(columns=["claim", "runs"]), "Differences in points")
