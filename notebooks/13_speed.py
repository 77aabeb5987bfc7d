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
# # How fast it is, and what larger models would take
#
# The protocol of Section 3.1 asks for 21 sentences, 10 samples and 32 tokens for each fact. This page
# compares our engines with the usual way to do the same work, on the same machine in the same run,
# and then counts what the paper's models would need.
#
# <details><summary>Run this page</summary>
#
# ```bash
# papermill notebooks/13_speed.py -p model MODEL -p profile PROFILE
# ```
#
# </details>
#
# The page reads the committed records of the benchmarks, whichever model is chosen. The commands that
# make them are at its end.

# %% tags=["parameters"]
model = "default"
profile = "default"

# %%
from IPython.display import Markdown

from repro.report import html, larger_models, layout, speed

# %%
layout.statements(speed.results())

# %% [markdown]
# ## Against the faster format of each
#
# Which number format is fast depends on the processor. `amx_bf16` multiplies bfloat16 numbers several
# times as fast as float32 ones, `avx512_bf16` about twice as fast on some processors. Where neither is
# named, PyTorch multiplies them five times slower or more, and `generate` and TRL in bfloat16 with it.
# So *times faster* compares each way in the format that is faster **for it**. The last two columns
# compare within one format: where the other way is slow in it, the ratio flatters ours.

# %%
html.table(speed.against_the_fastest(), "Ours against the usual way, each in its faster format")

# %% [markdown]
# ## Sampling
#
# `generate` gets the 21 prompts of a fact at once, padded on the left, with
# `num_return_sequences=10`. Ours computes once what prompts begin with and a prompt once for its ten
# samples, keeps samples together until they draw different tokens, drops a sample that has ended or
# named its answer, and moves neither keys nor values. LLaMA, Qwen2 and Gemma 3 on a CPU are computed by an
# engine of ours (`repro.inference.cpu.cpu_engine`), everything else by transformers' own layers. The samples have the same
# distribution; a test compares them.
#
# In bfloat16 every state is rounded where it is stored, as in transformers. Which format a study takes
# is measured: a few products of the model's own shapes are timed when it is first loaded. Products of
# bfloat16 numbers are exact in float32, so a processor that is slow in bfloat16 multiplies in float32
# and rounds: only the order of the sums differs.
#
# *Of the products*: speed as a share of what the linear layers alone reach with as many rows.
# *Work avoided*: the share of the tokens asked for that needed no forward pass. *At most*: how many
# times faster it would be if nothing but the products took time.

# %%
html.table(speed.sampling(), "Mastery of the same facts, full protocol")

# %% [markdown]
# The exact protocol has a limit on a processor: every sample is drawn, with random numbers of its own,
# and a token that decides something needs one pass through the model. What can be left out without
# changing a single hit is left out. A sample that has ended or named the object is decided. So is one
# that cannot name it any more: from the vocabulary follows how many tokens a name takes at least, and
# fewer are left. Samples with the same tokens so far are one row. The rest is computed, and its matrix
# products alone take the *limit*. Here ours measures many facts together, as a study does.

# %%
html.table(speed.avoided(), "Where the tokens go that the protocol asks for")

# %% [markdown]
# What lies between the limit and the time it takes: the same on one core, by Python's profiler. The products
# of a step have as many rows as samples are still open. So as samples are decided, the products themselves
# fall short of the speed that they have with all rows.

# %%
html.table(speed.time_shares(), "What the time goes to")

# %% [markdown]
# ## Scores
#
# Before a study of the profile `real` chooses its facts, the model scores all candidates: it reads each name
# of a fact's object after a few sentences. The padded way reads statements in batches of 32, padded on the
# right, and computes logits for every token. Ours packs statements into rows without padding, computes once
# what they share from their start, and computes logits for the tokens of names only. Every row is filled
# up to one size, so that a score has the same bits whatever else is in the row; *rows used* is what is left
# without the filling.

# %%
html.table(speed.scoring(), "Scores of the same facts")

# %% [markdown]
# ## Evaluation
#
# A fine-tuned model answers test questions greedily, 16 tokens at most. `generate` takes them in
# left-padded batches of 32. Ours packs the questions of a batch without padding, computes what they
# share from their start once, and drops a question as soon as its answer is there. Answers must
# be the same, token for token, up to where ours stops. In bfloat16 rounding differs with the batch,
# which can decide between two tokens that are equally likely: these answers are counted.

# %%
html.table(speed.answering(), "The same questions")

# %% [markdown]
# ## Fine-tuning
#
# TRL's `SFTTrainer` with its completion-only loss and ours see the same batches of 8 examples, with
# the same optimizer and schedule (Section 3.3). Ours packs the examples of a batch as it does
# questions, computes logits only where an answer is predicted, and keeps its memory from step to step.
# In bfloat16 rounding alone moves a loss: the last two columns say how far each curve is from the same
# trainer's in float32.

# %%
html.table(speed.tuning(), "Fine-tuning on the same batches")

# %%
layout.figure(
    speed.loss_figure(speed.curves()),
    "13.1",
    "Loss per step with TRL (wide) and with ours (thin), on the same batches.",
    alt="Loss per step with TRL and with ours, one panel per model and number format: in float32"
    " the two lines lie on one another",
)

# %% [markdown]
# ## A whole study
#
# `repro plan` times a little of each kind of work and adds it up. This is what it said, and what the
# study then took.

# %%
html.table(speed.planned(), "Planned and taken")

# %% [markdown]
# ## LLaMA-3-8B and LLaMA-3-70B: arithmetic, not measurement
#
# Tokens of the paper's whole grid on one model, and the operations of the matrix products that they
# take: two per parameter and token forward, six with the backward pass. Attention itself, which is
# small at these lengths, is left out.

# %%
lengths = larger_models.lengths()
Markdown(
    "Taken from our small models: {question:.1f} tokens of a question, {answer:.1f} of an answer,"
    " and a share of {avoided:.2f} of the sampled tokens that needs no forward pass.".format(
        **lengths
    )
)

# %%
html.table(larger_models.projection(**lengths), "Arithmetic: the paper's grid on one model")

# %%
html.table(larger_models.memory(), "Arithmetic: memory")

# %% [markdown]
# ## Machine, versions and commands

# %%
html.table(speed.machines(), "Where the measurements come from")
