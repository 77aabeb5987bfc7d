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
# # Token level: how far the predictions move
#
# Reproduces Section 4 of the paper with its Figures 3, 4 and 5. To run it on another model:
#
# ```bash
# papermill notebooks/04_divergence.py -p model MODEL -p profile PROFILE
# ```

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
import pandas as pd
from IPython.display import Markdown

from repro.claims import phenomena
from repro.report import divergence, html, scale
from repro.statistics import bootstrap, summary, verdicts
from repro.study import open_study

s = open_study(model, profile)
measured, test_level = s.results.divergence(), s.compared_level()
kl = divergence.means(measured)

# %%
text = f"""**{s.model.title}**, profile `{s.profile.name}`. Compared are in-domain test facts of level
{test_level} (the paper: level 4) whose answer comes early: """
Markdown(text + (f"{kl['facts'].max():,} facts." if len(kl) else "there are none."))

# %% [markdown]
# ## Figure 3: re-normalising ten logits
#
# The fine-tuned model answers the question, the pre-trained model completes the topic's best
# sentence. Only the fine-tuned model's ten highest logits count, and the pre-trained model's logits
# of the same tokens; a softmax over those ten gives $p$ and $p'$. A fact the run compared:

# %%
example = s.results.logits_example()
text = "Question: {question} Answer: {answer}.\n\nThe pre-trained model reads: “{template_prompt}”"
Markdown(text.format(**example) if example else "Not one fact of this level could be compared.")

# %% mystnb={"image": {"alt": "Ten tokens with their logits and re-normalised probabilities in both models"}}
divergence.logits_figure(example) if example else None

# %% [markdown]
# Their divergence is $s_{KL}(p \parallel p') = -\sum_i p_i \log (p'_i / p_i)$:

# %%
Markdown(f"{example['kl']:.3f} nats for this fact." if example else html.ABSENT)

# %% [markdown]
# ## Figure 5: divergence against data size
#
# The mean over facts. Bands are 95 % intervals over topics, since the facts of a topic share a
# sentence. The paper's Figure 5 is an image without printed values, so only shapes can be compared.

# %% mystnb={"image": {"alt": "KL divergence against the number of training facts, one line per training level"}}
divergence.figure(kl)

# %%
columns = ["train_level", "train_size", "kl", "low", "high", "spread", "n", "facts"]
html.table(kl[columns], "KL divergence in nats, with 95 % intervals", decimals=3)

# %% [markdown]
# ## Figure 4: accuracy on the same level

# %% mystnb={"image": {"alt": "Accuracy on the compared level against the number of training facts, one line per training level"}}
levels = summary.per_level(s.results.accuracy())
divergence.accuracy_figure(levels, test_level)

# %%
rows = levels[(levels["test_level"] == test_level) & (levels["split"] == "test")]
scale.table(rows, f"Accuracy (%) on in-domain facts of level {test_level}")

# %% [markdown]
# ## Finding 1
#
# *The divergence first falls, then rises, as the data grows.* Rule and intervals as in
# [the notebook on data size](02_scale); what is drawn anew are topics and data samples.

# %%
topics = bootstrap.of_topics(measured)
down, up = phenomena.divergence_falls(kl, topics), phenomena.divergence_rises(kl, topics)
first = pd.concat([down, up])
said = {"Finding 1": first, "It falls up to 240 facts": down, "It rises beyond": up}
Markdown("\n\n".join(verdicts.sentence(name, rows) for name, rows in said.items()))

# %%
html.table(first[verdicts.SHOWN], "Finding 1: differences in nats", decimals=3)

# %% [markdown]
# ## Finding 2
#
# *The larger the divergence, the lower the accuracy.* One point is one run, averaged over data
# samples.

# %%
runs = ["train_level", "train_size", "size_label"]
joined = kl.merge(summary.tuned(rows)[[*runs, "accuracy"]], on=runs)
second = phenomena.divergence_lowers_accuracy(joined)
Markdown(verdicts.sentence("Finding 2", second))

# %% mystnb={"image": {"alt": "Accuracy against KL divergence, one point per run"}}
divergence.scatter_figure(joined)

# %%
html.table(second, "Finding 2: rank correlation with 95 % interval")
