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
# # Token level: how far the predictions move
#
# Section 4 of the paper with its Figures 3, 4 and 5.
#
# <details><summary>Run this page on another model</summary>
#
# ```bash
# papermill notebooks/04_divergence.py -p model MODEL -p profile PROFILE
# ```
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
import pandas as pd
from IPython.display import Markdown

from repro.claims import phenomena
from repro.report import divergence, html, layout, scale
from repro.statistics import summary, verdicts
from repro.study import open_study

s = open_study(model, profile)
kl_sums, test_level = s.results.divergence(), s.compared_level()
kl, topics = divergence.means(kl_sums), divergence.topic_units(kl_sums)

# %%
levels = summary.per_level(s.results.accuracy())
compared = levels[(levels["test_level"] == test_level) & (levels["split"] == "test")]
joined = divergence.with_accuracy(kl, compared)
down, up = phenomena.divergence_falls(kl, topics), phenomena.divergence_rises(kl, topics)
second = phenomena.divergence_lowers_accuracy(joined)
layout.findings(s.model.title, divergence.findings(down, up, second))

# %%
layout.figure(
    divergence.figure(kl),
    "4.1",
    "Divergence of the fine-tuned from the pre-trained predictions. Bands are 95 % intervals over"
    " topics. The paper's Figure 5 is an image without printed values, so shapes can be compared.",
    alt="KL divergence against the number of training facts, one line per training level",
)

# %% [markdown]
# ## The question
#
# *The divergence from the pre-trained model first falls, then rises, as the data grows* (Finding 1).
# *The larger the divergence, the lower the accuracy* (Finding 2).
#
# ## The method
#
# The fine-tuned model answers the question, the pre-trained model completes the topic's best
# sentence. Only the fine-tuned model's ten highest logits count, and the pre-trained model's logits
# of the same tokens; a softmax over those ten gives $p$ and $p'$. Their divergence is
# $s_{KL}(p \parallel p') = -\sum_i p_i \log (p'_i / p_i)$, averaged over facts. Facts of a topic share
# a sentence, so intervals are over topics.

# %%
text = f"""**{s.model.title}**, profile `{s.profile.name}`. Compared are in-domain test facts of level
{test_level} (the paper: level 4) whose answer comes early: """
Markdown(text + (f"{kl['facts'].max():,} facts." if len(kl) else "there are none."))

# %% [markdown]
# ## Figure 3: one fact, ten logits

# %%
example = divergence.example(s)
text = "Question: {question} Answer: {answer}.\n\nThe pre-trained model reads: “{template_prompt}”"
Markdown(text.format(**example) if example else "Not one fact of this level could be compared.")

# %%
layout.figure(
    divergence.logits_figure(example),
    "4.2",
    f"The ten highest logits, before and after softmax: {example['kl']:.3f} nats for this fact.",
    alt="Ten tokens with their logits and re-normalised probabilities in both models",
) if example else Markdown(html.ABSENT)

# %% [markdown]
# ## Figure 5 as numbers

# %%
columns = ["train_level", "train_size", "kl", "low", "high", "spread", "n", "facts"]
html.table(kl[columns], "KL divergence in nats, with 95 % intervals", decimals=3)

# %% [markdown]
# ## Figure 4: accuracy on the same level

# %%
layout.figure(
    divergence.accuracy_figure(levels, test_level),
    "4.3",
    f"Accuracy on in-domain facts of level {test_level}, which the divergence is measured on.",
    alt="Accuracy on the compared level against the number of training facts, one line per level",
)

# %%
scale.table(compared, f"Accuracy (%) on in-domain facts of level {test_level}")

# %% [markdown]
# ## Finding 1
#
# Rule and intervals as in [the notebook on data size](02_scale); what is drawn anew are topics and
# data samples.

# %%
first = pd.concat([down, up])
said = {"Finding 1": first, "It falls up to 240 facts": down, "It rises beyond": up}
Markdown("\n\n".join(verdicts.sentence(name, rows) for name, rows in said.items()))

# %%
html.table(first[verdicts.SHOWN], "Finding 1: differences in nats", decimals=3)

# %% [markdown]
# ## Finding 2
#
# One point is one run, averaged over data samples.

# %%
Markdown(verdicts.sentence("Finding 2", second))

# %%
layout.figure(
    divergence.scatter_figure(joined),
    "4.4",
    "Accuracy and divergence of every run; larger points are trained on more facts.",
    alt="Accuracy against KL divergence, one point per run, joined in the order of data size",
)

# %%
html.table(second, "Finding 2: rank correlation with 95 % interval")
