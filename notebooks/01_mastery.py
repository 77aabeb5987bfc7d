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
# # Mastery: what the model knows before fine-tuning
#
# Section 3.1 of the paper with its Tables 1 and 8.
#
# <details><summary>Run this page on another model</summary>
#
# ```bash
# papermill notebooks/01_mastery.py -p model MODEL -p profile PROFILE
# ```
#
# </details>

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
import pandas as pd
from IPython.display import Markdown

from repro import paper
from repro.report import choice, html, layout, mastery
from repro.study import open_study

s = open_study(model, profile)
facts, ours, published = s.results.mastery(), s.results.distribution(), paper.table("distribution")
scored, estimated = s.results.scored(), s.results.natural_distribution()
layout.statement(mastery.result(ours, s.model.title, estimated), mastery.QUESTION)

# %%
layout.figure(
    mastery.figure(pd.concat([ours, published]), estimated=estimated),
    "1.1",
    "Share of the training facts at each mastery level: our model and the five of the paper. Of facts chosen"
    " by score, the estimate for all training facts.",
    alt="Bars: share of training facts per mastery level, for our model and the five of the paper",
)

# %% [markdown]
# ## The question
#
# Fine-tuning may teach a model something new, or only how to say what it knows. To tell these apart,
# the paper first measures how well the pre-trained model knows each fact.
#
# ## The method
#
# The model completes sentences such as “{subject} is located in”, and we count how often the
# answer appears. The share of completions with the answer is *R* (Appendix F.1). Equation 1 turns
# it into a level: *R* = 0 is level 0, and each quarter above 0 is one more level, its upper end
# included.

# %%
Markdown(
    f"**{s.model.title}**, profile `{s.profile.name}`. {s.model.note} {len(facts):,} facts; "
    f"{s.profile.templates} sentences × {s.profile.draws} samples each, "
    f"at most {s.profile.max_new_tokens} tokens long."
)

# %%
layout.figure(
    mastery.rates_figure(facts),
    "1.2",
    "How many of the measured facts have which R. Colours are mastery levels; R = 0 is a bar of its own.",
    alt="Histogram of R over all facts, with a bar of its own for R = 0",
)

# %% [markdown]
# ## Tables 1 and 8
#
# A count of 0 is a count: the level exists and no fact fell into it. A level with few facts cannot
# be trained on at the larger sizes, and an accuracy measured on it has a wide interval.

# %%
mastery.tables(ours, s.model.title, estimated)

# %%
empty = ours[ours["count"] == 0].groupby("split", sort=False)["level"].agg(list)
missing = [f"{paper.SPLIT_TITLES[split].lower()} {levels}" for split, levels in empty.items()]
Markdown("Levels without a single fact: " + ("; ".join(missing) or "none") + ".")

# %%
Markdown(choice.filling(s, scored))

# %%
shares = mastery.level_shares(ours, estimated)
columns = ["split", "level", "count", "share", "low", "high"]
html.table(shares[columns], f"Shares (%) with 95 % intervals, {s.model.title}")

# %% [markdown]
# ## How the facts were chosen

# %%
Markdown(choice.how(s, scored))

# %%
choice.tables(s, scored)

# %% [markdown]
# ## Topics differ
#
# The ten in-domain topics are about places, the others are not. They are sorted by how much of
# them the model does not know at all. Facts that were chosen by score count as often as they stand for
# others.

# %%
questions = {topic.id: topic.question.replace("{subject}", "…") for topic in paper.TOPICS.values()}
names = {topic: f"{topic}: {question}" for topic, question in questions.items()}
counted = mastery.weighted(facts, scored)
outside = counted["split"] == "testood"
layout.figure(
    mastery.topics_figure(counted[~outside], names),
    "1.3",
    "Share of facts at each level, by in-domain topic.",
    alt="Bars: share of facts per mastery level for each in-domain topic",
)

# %%
layout.figure(
    mastery.topics_figure(counted[outside], names),
    "1.4",
    "Share of facts at each level, by out-of-domain topic.",
    alt="Bars: share of facts per mastery level for each out-of-domain topic",
)

# %% [markdown]
# ## Sentences differ
#
# One model, one fact, and yet some sentences bring the answer out far more often than others.
# That is why the paper uses 21 of them. The best one of each topic returns in
# [the token-level analysis](04_divergence).

# %%
success = mastery.template_rates(facts)
layout.figure(
    mastery.templates_figure(success),
    "1.5",
    "Success rate of every mapping template on the measured facts, by topic.",
    alt="Heat map: success rate of every mapping template, one row per topic",
)

# %%
texts = {topic.id: topic.mappings for topic in paper.TOPICS.values()}
best = mastery.best_templates(success, texts)
html.table(best, "Most successful sentence of each topic; success rates in %")
