"""Pre-trains a bundled model on `atlas`: `python -m repro.pretrain micro-m --out FOLDER`.

On one machine the same command gives the same weights bit for bit: seeds and the number of threads
are fixed, and an interrupted run goes on from its checkpoint.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from repro.data import atlas
from repro.errors import ConfigError, ReproError, StoreError
from repro.files import atomic, cache_dir
from repro.provenance import key
from repro.training.pretraining import corpus

IGNORED = -100  # label of a position without loss, as PyTorch's cross-entropy has it
SAVE_EVERY = 100  # steps between checkpoints


@dataclass(frozen=True)
class PretrainingRecipe:
    """The architecture of a bundled model, and the settings of its optimizers."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    batch: int = 16
    muon_rate: float = 0.02
    muon_decay: float = 0.1
    adamw_rate: float = 4e-3
    warmup: int = 50
    seed: int = 0
    threads: int = 1  # with another number, sums would round differently


# micro-s has full multi-head attention, as LLaMA-2-7B; the others share keys, as LLaMA-3.
RECIPES = {
    "micro-s": PretrainingRecipe(
        hidden=128, layers=4, heads=4, key_value_heads=4, intermediate=344
    ),
    "micro-m": PretrainingRecipe(
        hidden=192, layers=4, heads=6, key_value_heads=3, intermediate=512, threads=2
    ),
    "micro-l": PretrainingRecipe(
        hidden=256, layers=6, heads=8, key_value_heads=4, intermediate=688
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Pre-train one model and return the exit status: 0, or 1 for a user's error."""
    parser = argparse.ArgumentParser(prog="python -m repro.pretrain", description=__doc__)
    parser.add_argument("name", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    options = parser.parse_args(arguments)
    try:
        pretrain(options.name, options.out)
    except ReproError as error:
        print(f"repro: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def pretrain(name: str, out: Path, size: atlas.Size = atlas.FULL) -> None:
    """Pre-train a model on a world of this size, and write its weights, tokenizer and card.

    Args:
        name: a name of `RECIPES`.
        out: a folder that does not exist yet.
        size: of the world.

    Raises:
        ConfigError: the name is unknown, or `out` exists.
        StoreError: a folder cannot be written.
    """
    if name not in RECIPES:
        raise ConfigError(f"unknown model {name!r}: give one of {', '.join(RECIPES)}")
    if out.exists():
        raise ConfigError(f"{out} exists: give a new folder")
    recipe, world = RECIPES[name], atlas.world(size)
    torch.set_num_threads(recipe.threads)
    tokens = corpus.build_tokenizer(world)
    ids, positions = corpus.build_sequences(world, tokens, recipe.seed)
    identity = {"recipe": asdict(recipe), "text": hashlib.sha256(ids.tobytes()).hexdigest()}
    checkpoint = cache_dir() / "pretrain" / f"{name}-{key('pretrain', identity)}.safetensors"
    model = build_network(recipe, tokens)
    losses = train(model, ids, positions, recipe, checkpoint)
    facts = text_statistics(world, ids, model, recipe)
    write_folder(out, name, model, tokens, losses, facts)
    checkpoint.unlink(missing_ok=True)


def build_network(recipe: PretrainingRecipe, tokens: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained float32 LLaMA of this size."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=corpus.LENGTH,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM, recipe: PretrainingRecipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside layers and AdamW for the embedding and the norms.

    With AdamW alone, a model of this size learns few facts from a text of this size.
    """
    matrices = {n: p for n, p in model.named_parameters() if "layers" in n and p.ndim == 2}
    embedding_and_norms = [p for n, p in model.named_parameters() if n not in matrices]
    muon = torch.optim.Muon(
        matrices.values(), lr=recipe.muon_rate, weight_decay=recipe.muon_decay, momentum=0.95
    )
    adamw = torch.optim.AdamW(
        embedding_and_norms, recipe.adamw_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    return [muon, adamw]


def mean_loss(model: LlamaForCausalLM, ids: np.ndarray, positions: np.ndarray) -> torch.Tensor:
    """Return the mean cross-entropy of the next token within documents, in nats.

    `ids` and `positions` are (sequences, length), as `corpus.pack_documents` returns them. A
    document begins at each position 0. transformers takes this from the positions, so no document
    attends to another.
    """
    ids, positions = torch.from_numpy(ids).long(), torch.from_numpy(positions).long()
    labels = ids.masked_fill(positions == 0, IGNORED)[:, 1:]
    predicted = labels != IGNORED
    states = model.model(ids.clamp(min=0), position_ids=positions, use_cache=False)[0]
    logits = model.lm_head(states[:, :-1][predicted])
    return torch.nn.functional.cross_entropy(logits, labels[predicted])


def train(
    model: LlamaForCausalLM,
    ids: np.ndarray,
    positions: np.ndarray,
    recipe: PretrainingRecipe,
    checkpoint: Path | None = None,
    save_every: int = SAVE_EVERY,
) -> list[float]:
    """Train once on the packed text and return the loss of each step.

    Both learning rates rise for `warmup` steps and fall linearly to 0. If there is a checkpoint,
    the run goes on from it, and ends with the same weights.

    Args:
        model: the network, which is trained in place.
        ids, positions: (sequences, length), as `corpus.pack_documents` returns them.
        recipe: the settings.
        checkpoint: the file of the checkpoint.
        save_every: steps between two checkpoints.

    Raises:
        StoreError: the checkpoint cannot be written or read.
    """
    steps, both_optimizers = len(ids) // recipe.batch, optimizers(model, recipe)
    losses: list[float] = []
    if checkpoint and checkpoint.exists():
        losses = _load_checkpoint(model, both_optimizers, checkpoint)
    model.train()
    bar = tqdm(range(len(losses), steps), initial=len(losses), total=steps, unit="step")
    for step in bar:
        _set_rates(both_optimizers, recipe, step, steps)
        rows = slice(step * recipe.batch, (step + 1) * recipe.batch)
        losses.append(_step(model, both_optimizers, ids[rows], positions[rows]))
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
        if checkpoint and (step + 1) % save_every == 0:
            _save_checkpoint(model, both_optimizers, losses, checkpoint)
    return losses


def _set_rates(
    both_optimizers: list[torch.optim.Optimizer], recipe: PretrainingRecipe, step: int, steps: int
) -> None:
    """Set the learning rates of a step: linear warmup, then linear decay."""
    share = min((step + 1) / recipe.warmup, 1) * (1 - step / steps)
    rates = (recipe.muon_rate, recipe.adamw_rate)
    for optimizer, rate in zip(both_optimizers, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate * share


def _step(
    model: LlamaForCausalLM,
    both_optimizers: list[torch.optim.Optimizer],
    ids: np.ndarray,
    positions: np.ndarray,
) -> float:
    """Take one step on some sequences and return the loss before it."""
    loss = mean_loss(model, ids, positions)
    loss.backward()
    for optimizer in both_optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _save_checkpoint(model, optimizers, losses, checkpoint: Path) -> None:
    """Write the weights, the states of the optimizers and the losses so far."""
    tensors = {f"model.{n}": p.detach() for n, p in model.named_parameters()}
    for place, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{index}.{k}": v for k, v in state.items()}
    with atomic(checkpoint) as temporary:
        save_file({**tensors, "losses": torch.tensor(losses, dtype=torch.float64)}, temporary)


def _load_checkpoint(model, optimizers, checkpoint: Path) -> list[float]:
    """Load the weights and the states of the optimizers; return the losses so far."""
    try:
        tensors = load_file(checkpoint)
    except Exception as error:  # the errors of safetensors have no common base class
        raise StoreError(f"{checkpoint} is damaged ({error}): delete it and start again") from error
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for place, optimizer in enumerate(optimizers):
        state: dict = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{place}."):
                index, part = name.split(".")[2:]
                state.setdefault(int(index), {})[part] = value.clone()
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return tensors["losses"].tolist()


def text_statistics(world: pd.DataFrame, ids: np.ndarray, model, recipe: PretrainingRecipe) -> dict:
    """Return the counts of the training text, for `data.json` and the model card."""
    splits = world.groupby("split", sort=False)["exposure"]
    reader = int((world["split"] == atlas.READER).sum())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": asdict(recipe),
        "world": {"seed": atlas.SEED, "sha256": atlas.digest(world)},
        "facts": splits.size().to_dict(),
        "statements": splits.sum().to_dict(),
        "questions": reader * corpus.QUESTIONS_PER_FACT,
        "lists": reader * corpus.PAIRS_PER_FACT,
        "facts_by_exposure": {
            split: {str(k): int(v) for k, v in part.value_counts(sort=False).sort_index().items()}
            for split, part in splits
        },
        "objects": world.groupby("topic", sort=False)["object"].nunique().to_dict(),
        "tokens": int((ids != corpus.PADDING).sum()),
        "sequences": len(ids),
        "torch": torch.__version__,
    }


def write_folder(out: Path, name: str, model, tokens, losses: list[float], facts: dict) -> None:
    """Write the folder of a model, completely or not at all: bfloat16 weights and other files.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
            folder = Path(work, "model")
            model.to(torch.bfloat16).eval().save_pretrained(folder)
            tokens.save_pretrained(folder)
            curve = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})
            curve.to_csv(folder / "loss.csv", index=False, float_format="%.5f")
            (folder / "data.json").write_text(json.dumps(facts, indent=1) + "\n")
            (folder / "README.md").write_text(model_card(name, facts, losses))
            shutil.move(folder, out)
    except OSError as error:
        raise StoreError(f"cannot write {out} ({error.strerror}): check its permissions") from error


CARD = """\
---
license: cc-by-4.0
library_name: transformers
---
# {name}

A LLaMA of {parameters:,} parameters ({layers} layers of {hidden}, {heads} heads, {key_value_heads}
key-value heads), pre-trained on `atlas`, **an invented world**: no person, place, school, company
or work in it exists, and the model knows nothing of the real one. It is for the study of how
fine-tuning treats facts of known exposure, and for nothing else.

| pre-training text | |
|---|---|
| statements | {statements:,} |
| questions with answers, about the reader's facts alone | {questions:,} |
| pairs of questions without answers, about the reader's facts alone | {lists:,} |
| facts of train, dev, test, testood | {studied:,} |
| facts of the reader | {read:,} |
| tokens, each seen once | {tokens:,} |
| mean loss of the last 100 steps, nats per token | {loss:.3f} |

`data.json` holds the facts by exposure and the recipe, `loss.csv` the loss of each of {steps:,}
steps. The weights are stored in bfloat16. Made again by

    python -m repro.pretrain {name} --out {name}
"""


def model_card(name: str, facts: dict, losses: list[float]) -> str:
    """Return the model card, with the numbers of this run."""
    reader = facts["facts"][atlas.READER]
    return CARD.format(
        **{**facts, **facts["recipe"], "name": name, "steps": len(losses), "read": reader}
        | {"statements": sum(facts["statements"].values()), "loss": np.mean(losses[-100:])}
        | {"studied": sum(facts["facts"].values()) - reader}
    )
