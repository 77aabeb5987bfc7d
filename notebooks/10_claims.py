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
# # Claims: what holds
#
# Claims of the paper, Section 1 to Appendix E, checked on its own tables and on our models. A column is a
# claim, a row is a model; [the rule](the-rule) is below. A click opens quote, numbers and comparisons.
# Another model: `papermill notebooks/10_claims.py -p model MODEL -p profile PROFILE`

# %% tags=["parameters", "hide-input"]
model = "default"
profile = "default"

# %% tags=["hide-input"]
from repro.claims import claims, claims_page, printed_digits
from repro.report import html
from repro.study import open_study

s = open_study(model, profile)
sides = claims.sides(s)
judged = claims.findings(sides)
claims_page.page(judged, "Claims of the paper")

# %% [markdown]
# (the-rule)=
# ## The rule
#
# A claim is made of comparisons: differences (or shares), each with its 95 % interval. A comparison is
# *supported* when its interval lies on the claim's side. It is *contradicted* only when the interval
# lies on the other side also after correction for the number of comparisons, for among many some look
# decided by chance. Everything else is *undecided*.
#
# | verdict | when |
# |---|---|
# | ✓ holds | all comparisons are supported; where the text says most or some: so many of them |
# | ◐ holds with exceptions | some are contradicted, at least three quarters are supported |
# | ↗ same direction | a model agrees with the sign of the paper's number and not with its size |
# | ? undecided | the intervals do not tell |
# | ≠ not reproduced by the tables | the text gives a number that the tables do not |
# | ✎ slip | a word, a count or a caption that does not fit |
# | ✗ contradicted | the paper says it, and its tables (or the model's runs) deny it |
# | ◆ our observation | the paper does not claim it; we found it in its tables |
# | · not testable here | the paper has only an image, or the model has no such runs |
#
# *n of k* is how many of the comparisons are supported. The *mean effect* is their average in the
# claimed direction, with its interval over questions and data samples.
#
# - **On the paper's tables** the interval is what rounding to the printed digits hides; half-widths add
#   up. Where Table 2 prints a spread, Student's *t* over three runs is added. Other tables print no
#   spread: there rounding is the only interval, and what looks decided may be chance.
# - **On a model** questions and data samples are drawn anew, jointly for all comparisons of a claim
#   (see [the notebook on data size](02_scale)); the intervals that hold together are max-*t* intervals.
#   Where single answers were not kept, Bonferroni's correction takes their place. The numbers of
#   training facts and the restored shares must be the paper's.
# - **No harm** means a loss of less than one point. That margin is ours, and so are other conditions
#   that the paper does not state; the claim's note says so.

# %% tags=["hide-cell"]
html.table(claims.counts(judged), "Verdicts on all claims")

# %% [markdown]
# ## What the printed digits say
#
# The accuracies of Table 2 are counts over a known number of facts, averaged over runs. Over how many?
# The share of cells that could be such a mean, with the share of any two-decimal numbers that could:

# %% tags=["hide-cell"]
html.table(
    printed_digits.by_runs(), "Cells of Table 2 that fit a mean over so many runs (%)", decimals=1
)

# %% [markdown]
# What does not fit three runs, by the level trained on:

# %% tags=["hide-cell"]
html.table(
    printed_digits.by_model(printed_digits.RUNS), "Cells of Table 2 that fit a mean over three runs"
)

# %% [markdown]
# Table 3 holds shares of a sum. Formed in bfloat16, both parts of a share have eight significant bits.
# The divisor that explains most shares of each row, and what random rows reach:

# %% tags=["hide-cell"]
html.table(printed_digits.bfloat16(), "Shares of Table 3 that are ratios of eight-bit numbers")

# %% [markdown]
# Tables 2 and 4 report the same models after the same training:

# %% tags=["hide-cell"]
html.table(printed_digits.reruns(), "Acc (%) by Table 2 and by Table 4, with the spread of Table 2")
