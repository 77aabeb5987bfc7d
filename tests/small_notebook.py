"""The source of a notebook with parameters and one cell of code, to be filled in."""

CELLS = """\
# %% [markdown]
# # A notebook

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
{code}
"""
