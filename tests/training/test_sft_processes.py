"""Fine-tuning by several processes, and under settings of the environment, gives what one gives."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from repro.errors import ConfigError
from repro.models.launch import check_launch
from repro.training.batches import batch_of_process, packed_batch, padded_batch, prefix_tree_batch

# Trains three times: packed with a last batch of three examples, packed with one of a single
# example, and padded, by a network with a short window. Then an adapter.
TRAIN = """
import copy, json, sys
from pathlib import Path
import pandas as pd
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig
from repro.errors import ReproError
from repro.models.devices import processes
from repro.models.loading import load_model
from repro.training import lora, sft
from repro.training.recipe import Adapter, Recipe

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
facts = pd.read_json(sys.argv[3])
try:
    first = processes().is_main_process
    network, tokenizer = load_model(folder, device="cpu")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "head_dim": 8, "num_attention_heads": 4, "num_hidden_layers": 1}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": len(tokenizer)}
    window = {"sliding_window": 12, "layer_types": ["sliding_attention"], "pad_token_id": 0}
    windowed = AutoModelForCausalLM.from_config(Gemma3TextConfig(**sizes, **window))
    losses, options = {}, {"dtype": torch.float32}
    for name, model, size in (("3", network, 4), ("1", network, 5), ("padded", windowed, 5)):
        model = copy.deepcopy(model)
        recipe = Recipe(learning_rate=3e-3, batch_size=size, epochs=2, clip=0.5)
        losses[name] = sft.finetune(model, tokenizer, facts, recipe, **options)["loss"]
        if first:
            held = {n: p.detach().clone() for n, p in model.named_parameters()}
            save_file(held, out / f"{name}.safetensors")
    recipe = Recipe(learning_rate=3e-3, batch_size=5)
    losses["lora"] = lora.finetune(network, tokenizer, facts, recipe, Adapter(2))["loss"]
    if first:
        (out / "losses.json").write_text(json.dumps(losses))
except ReproError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture(scope="module")
def inputs(tiny_facts, tiny_model, tmp_path_factory):
    """The script and its arguments but the folder to write to: (script, model, facts)."""
    folder = tmp_path_factory.mktemp("given")
    chosen = tiny_facts[tiny_facts["split"] == "train"].groupby("topic").head(4).head(11)
    objects = ["Arvenia", "the city of Bolstan", "Dunmark and Cordral"]
    chosen = chosen.assign(object=[objects[i % 3] for i in range(len(chosen))])
    chosen.to_json(folder / "facts.json")
    (folder / "train.py").write_text(TRAIN)
    return folder / "train.py", tiny_model, folder / "facts.json"


def train(inputs, out, launcher=(), **settings) -> tuple[dict, dict]:
    """Run the script; return the losses by training, and the weights that two of them gave."""
    script, model, facts = inputs
    out.mkdir()
    command = [sys.executable, *launcher, str(script), str(model), str(out), str(facts)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | settings
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    weights = {name: load_file(out / f"{name}.safetensors") for name in ("3", "1", "padded")}
    return json.loads((out / "losses.json").read_text()), weights


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    return train(inputs, tmp_path_factory.mktemp("alone") / "out")


@pytest.mark.parametrize("number", [2, 3])
def test_any_number_of_processes_gives_the_losses_of_one(inputs, alone, tmp_path, number):
    """Last batches of three examples and of one, so that some processes have none of their own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}"]
    losses, weights = train(inputs, tmp_path / "out", launcher)
    assert losses.keys() == alone[0].keys()
    for name, curve in losses.items():
        assert curve == pytest.approx(alone[0][name], rel=1e-5), name
    for name, tensors in weights.items():
        ours, expected = (
            torch.cat([held[n].flatten() for n in tensors]) for held in (tensors, alone[1][name])
        )
        assert (ours - expected).norm() < 1e-4 * expected.norm()


def test_the_environment_changes_no_bit(inputs, alone, tmp_path):
    settings = {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "EAGER",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH": "True",
    }
    losses, weights = train(inputs, tmp_path / "out", **settings)
    assert losses == alone[0]
    for name, tensors in weights.items():
        assert all(torch.equal(tensors[n], alone[1][name][n]) for n in tensors)


# --- launches that would not do what they were told -------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cpu", "--num_processes", "2"], "add --multi_gpu"),
        (["--num_processes", "2"], "add --multi_gpu"),
        (["--use_fsdp", "--fsdp_version", "1", "--num_processes", "2"], "--fsdp_version 2"),
        (["--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"], "of a whole network"),
    ],
)
def test_a_launch_that_would_not_do_what_it_is_told_is_one_line(inputs, tmp_path, options, said):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options]
    command = [*launcher, *map(str, (inputs[0], inputs[1], tmp_path, inputs[2]))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "ConfigError" in line]
    assert lines and all(said in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_launches_that_are_as_they_say_pass():
    check_launch({})
    check_launch({"ACCELERATE_USE_CPU": "True"})  # one process
    check_launch({"MASTER_PORT": "29500", "MASTER_ADDR": "node"})  # a cluster's, not accelerate's
    ranked = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "29500"}
    check_launch(ranked)
    check_launch({"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "1", "OMPI_COMM_WORLD_RANK": "1"})
    check_launch({"WORLD_SIZE": "1"})


@pytest.mark.parametrize("size", ["abc", "", "0", "-1", "2"])
def test_a_world_size_without_a_rank_is_refused(size):
    with pytest.raises(ConfigError, match="WORLD_SIZE is") as error:
        check_launch({"WORLD_SIZE": size})
    assert "\n" not in str(error.value)


# --- the part of each process -------------------------------------------------------------------

EXAMPLES = [
    ([5, 6, 7], [-100, 6, 7]),
    ([5, 8, 9, 7], [-100, -100, 9, 7]),
    ([4, 3], [-100, 3]),
]


def test_the_processes_parts_are_the_batch_by_hand():
    """Answer tokens 6 7, 9 7 and 3: five in all, by which every process divides."""
    parts = [batch_of_process(EXAMPLES, padded_batch, rank, 2) for rank in (0, 1)]
    assert parts[0]["input_ids"].tolist() == [[5, 6, 7], [0, 4, 3]]
    assert parts[0]["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert parts[0]["logits_to_keep"].tolist() == [0, 1]
    assert parts[0]["targets"].tolist() == [6, 7, -100, 3]
    assert parts[1]["input_ids"].tolist() == [[5, 8, 9, 7]]
    assert parts[1]["logits_to_keep"].tolist() == [1, 2]
    assert parts[1]["targets"].tolist() == [9, 7]
    assert [part["answers"].item() for part in parts] == [5.0, 5.0]


@pytest.mark.parametrize("join", [padded_batch, packed_batch, prefix_tree_batch])
def test_a_process_without_an_example_has_a_fully_masked_one(join):
    part = batch_of_process(EXAMPLES, join, rank=3, number=4)
    assert part["input_ids"].flatten().tolist() == [5, 6, 7]
    assert set(part["targets"].tolist()) == {-100}
    assert part["logits_to_keep"].tolist() == [0]
    assert part["answers"] == 5.0


@pytest.mark.parametrize("join", [padded_batch, packed_batch])
def test_a_fully_masked_batch_adds_nothing(tiny_loaded, join):
    network = tiny_loaded[0]
    batch = batch_of_process(EXAMPLES, join, rank=3, number=4)
    targets, _ = batch.pop("targets"), batch.pop("answers")
    logits = network(**batch, use_cache=False).logits.flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    assert loss.item() == 0.0
    assert all(g.count_nonzero() == 0 for g in gradients)
