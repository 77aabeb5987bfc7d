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
# # Claims: what holds, and what does not
#
# What the paper claims, from its abstract over Section 1 to Section 6 and in its Appendices C and E,
# checked on the paper's own tables and on every model we have measured. To run it with another model
# first:
#
# ```bash
# papermill notebooks/10_claims.py -p model MODEL -p profile PROFILE
# ```

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from IPython.display import Markdown

from repro.claims import claims, claims_page, printed_digits
from repro.report import html
from repro.study import open_study

s = open_study(model, profile)
sides = claims.sides(s)
found = claims.findings(sides)
names = ", ".join(f"`{side.name}`" for side in sides[1:])
Markdown(f"{len(claims.load())} claims. Measured here: {names}.")

# %% [markdown]
# ## The rule
#
# A claim is *supported*, *contradicted* or *undecided* by its comparisons: by all of them, unless it
# speaks of most or of some. One comparison is a difference (or a share) and an interval; it is
# supported when the interval lies on the claim's side, contradicted when it lies on the other side.
#
# - On the paper's tables, the interval is what rounding to the printed digits hides. A number in the
#   text is supported when some reading of the tables gives it, to its last digit.
# - On a model, it is the 95 % interval over questions and data samples of
#   [the notebook on data size](02_scale). Where the claim is a number of LLaMA-3-8B, its sign counts,
#   not its size. The numbers of training facts and the restored shares must be the paper's.
# - *Not tested*: the paper has only an image, or the model has no such runs.
#
# Intervals are for one comparison each. Of many undecided comparisons some will look decided by chance.

# %%
html.table(claims.counts(found), "Verdicts on all claims")

# %% [markdown]
# ## What does not hold on the paper's own tables

# %%
Markdown(claims.listed(found, "paper", claims.CONTRADICTED))

# %% [markdown]
# ## What does not hold on the model of this book

# %%
Markdown(claims.listed(found, sides[1].name, claims.CONTRADICTED))

# %% [markdown]
# ## The ledger
#
# Under each verdict, what it rests on: open it for the single comparisons.

# %%
claims_page.page(found, "Claims of the paper")

# %% [markdown]
# ## What the printed digits say
#
# The accuracies of Table 2 are counts over a known number of facts, averaged over runs. Over how many?
# The share of cells that could be such a mean, with the share of any two-decimal numbers that could:

# %%
html.table(
    printed_digits.by_runs(), "Cells of Table 2 that fit a mean over so many runs (%)", decimals=1
)

# %% [markdown]
# What does not fit three runs, by the level trained on:

# %%
html.table(
    printed_digits.by_model(printed_digits.RUNS), "Cells of Table 2 that fit a mean over three runs"
)

# %% [markdown]
# Table 3 holds shares of a sum. Formed in bfloat16, both parts of a share have eight significant bits.
# The divisor that explains most shares of each row, and what random rows reach:

# %%
html.table(printed_digits.bfloat16(), "Shares of Table 3 that are ratios of eight-bit numbers")

# %% [markdown]
# Tables 2 and 4 report the same models after the same training:

# %%
html.table(printed_digits.reruns(), "Acc (%) by Table 2 and by Table 4, with the spread of Table 2")
