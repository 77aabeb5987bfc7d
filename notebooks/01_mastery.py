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
# # Mastery: what the model knows before fine-tuning
#
# Reproduces Section 3.1 of the paper with its Tables 1 and 8. To run it on another model:
#
# ```bash
# papermill notebooks/01_mastery.py -p model MODEL -p profile PROFILE
# ```

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
import pandas as pd
from IPython.display import Markdown

from repro import paper
from repro.report import html, mastery
from repro.study import open_study

s = open_study(model, profile)
Markdown(f"**{s.model.title}**, profile `{s.profile.name}`. {s.model.note}")

# %% [markdown]
# ## How well a fact is known
#
# The model completes sentences such as “{subject} is located in”, and we count how often the
# answer appears. The share of completions with the answer is *R* (Appendix F.1). Equation 1 turns
# it into a level: *R* = 0 is level 0, and each quarter above 0 is one more level, its upper end
# included.

# %%
facts = s.mastery()
Markdown(
    f"{len(facts):,} facts; {s.profile.templates} sentences × {s.profile.draws} samples each, "
    f"at most {s.profile.max_new_tokens} tokens long."
)

# %% mystnb={"image": {"alt": "Histogram of R over all facts, with a bar of its own for R = 0"}}
mastery.rates_figure(facts)

# %% [markdown]
# ## Tables 1 and 8
#
# Ours first, then the paper's five models. A count of 0 is a count: the level exists and no fact
# fell into it.

# %%
ours = s.results.distribution()
mastery.table(ours, f"Ours: {s.model.title}")

# %%
published = paper.table("distribution")
mastery.table(published, "Tables 1 and 8 of the paper")

# %%
empty = ours[ours["count"] == 0].groupby("split", sort=False)["level"].agg(list)
found = [f"{paper.SPLIT_TITLES[split].lower()} {levels}" for split, levels in empty.items()]
Markdown("Levels without a single fact: " + ("; ".join(found) or "none") + ".")

# %% [markdown]
# The same as shares of the training facts. What follows for the rest of the book: a level with
# few facts cannot be trained on at the larger sizes, and an accuracy measured on it has a wide
# interval.

# %% mystnb={"image": {"alt": "Bars: share of training facts per mastery level, for our model and the five of the paper"}}
mastery.figure(pd.concat([ours, published]))

# %%
shares = mastery.level_shares(ours)
columns = ["split", "level", "count", "share", "low", "high"]
html.table(shares[columns], f"Shares (%) with 95 % intervals, {s.model.title}")

# %% [markdown]
# ## Topics differ
#
# The ten in-domain topics are about places, the others are not. They are sorted by how much of
# them the model does not know at all.

# %% mystnb={"image": {"alt": "Bars: share of facts per mastery level for each in-domain topic"}}
questions = {topic.id: topic.question.replace("{subject}", "…") for topic in paper.TOPICS.values()}
names = {topic: f"{topic}: {question}" for topic, question in questions.items()}
outside = facts["split"] == "testood"
mastery.topics_figure(facts[~outside], names)

# %% mystnb={"image": {"alt": "Bars: share of facts per mastery level for each out-of-domain topic"}}
mastery.topics_figure(facts[outside], names)

# %% [markdown]
# ## Sentences differ
#
# One model, one fact, and yet some sentences bring the answer out far more often than others.
# That is why the paper uses 21 of them. The best one of each topic returns in
# [the token-level analysis](04_divergence).

# %% mystnb={"image": {"alt": "Heat map: success rate of every mapping template, one row per topic"}}
success = mastery.template_rates(facts)
mastery.templates_figure(success)

# %%
texts = {topic.id: topic.mappings for topic in paper.TOPICS.values()}
best = mastery.best_templates(success, texts)
html.table(best, "Most successful sentence of each topic; success rates in %")
