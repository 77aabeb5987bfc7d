"""Fine-tuning by FSDP2 in processes on a CPU gives what one process gives, also after a kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig

from repro.errors import ConfigError
from repro.models.launch import Sharding, check_launch, sharding
from repro.models.loading import load_model
from repro.restoration import restore
from repro.restoration.checkpoints import Checkpoint
from repro.training import sft
from repro.training.recipe import Recipe

LIMIT = 120  # seconds after which a launch counts as hanging
RECIPES = {
    "untied": {"batch_size": 4},  # the last batch has three examples
    "tied": {"batch_size": 5},  # the last batch has one: a process has none of its own
}
# Scores in bfloat16 tie by hundreds, so that the order of parameters decides.
RESTORED = [("float32", 20), ("bfloat16", 60)]
COMMON = {"learning_rate": 3e-3, "epochs": 2, "clip": 0.5}

TRAIN = """
import json, sys, time
from pathlib import Path
import pandas as pd
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer
from repro.models.devices import processes
from repro.models.launch import Sharding, sharding
from repro.restoration import restore
from repro.restoration.checkpoints import Checkpoint
from repro.training import sft
from repro.training.recipe import Recipe
from repro.training.resumption import Resumption
from repro.training.sharding import sharded_network, write_weights

folder, out, facts = Path(sys.argv[1]), Path(sys.argv[2]), pd.read_json(sys.argv[3])
jobs = json.loads(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(folder / jobs[0]["model"])
for job in jobs:
    told = sharding()
    how = Sharding(**job["sharding"]) if "sharding" in job else told
    model = folder / job["model"]
    base, dtype = Checkpoint(model), getattr(torch, job.get("dtype", "float32"))
    network = sharded_network(model, base, how, dtype)
    resumption = Resumption(out / "progress", 0) if job.get("resumed") else None
    name = f"{job['model']}-{job['name']}"

    def progress(loss):
        if job.get("slow"):
            if processes().is_main_process:
                (out / "steps").open("a").write(f"{loss}\\n")
            time.sleep(job["slow"])

    recipe = Recipe(**job["recipe"])
    result = sft.finetune(
        network, tokenizer, facts, recipe, progress, resumption=resumption
    )
    write_weights(network, out / f"{name}.safetensors", torch.float32)
    if processes().is_main_process:
        (out / f"{name}.json").write_text(json.dumps(result))
    for score_dtype, percent in job.get("restored", []):
        tuned = (load_file(out / f"{name}.safetensors"))
        options = {"score_dtype": getattr(torch, score_dtype), "block_size": 1000, "shared": True}
        ranking = restore.rank(base, tuned, **options)
        cut = restore.thresholds(ranking, [percent])[percent]
        places = restore.by_tensor(ranking, [percent])[percent].tolist()
        change = restore.concentration(ranking, [percent])["share_of_change_percent"].item()
        with restore.restored(network, base, tuned, ranking, percent, cut):
            write_weights(network, out / f"{name}-{percent}.safetensors", torch.float32)
        write_weights(network, out / f"{name}-{percent}-undone.safetensors", torch.float32)
        if processes().is_main_process:
            chosen = {"cut": vars(cut), "places": places, "change": change}
            (out / f"{name}-{percent}.json").write_text(json.dumps(chosen))
"""


@pytest.fixture(scope="module")
def given(tiny_facts, tmp_path_factory):
    """A script, a folder of two LLaMAs with 3 heads of keys and a tokenizer, and 11 facts."""
    folder = tmp_path_factory.mktemp("given")
    tokens = tiny.tokenizer(tiny.statements(tiny_facts) + tiny_facts["question"].tolist(), bos=True)
    sizes = {"hidden_size": 48, "intermediate_size": 90, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 6, "num_key_value_heads": 3, "max_position_embeddings": 128}
    for name in RECIPES:
        torch.manual_seed(0)
        options = {"vocab_size": len(tokens), "tie_word_embeddings": name == "tied", **sizes}
        AutoModelForCausalLM.from_config(LlamaConfig(**options)).save_pretrained(folder / name)
        tokens.save_pretrained(folder / name)
    chosen = tiny_facts[tiny_facts["split"] == "train"].groupby("topic").head(4).head(11)
    objects = ["Arvenia", "the city of Bolstan", "Dunmark and Cordral"]
    chosen = chosen.assign(object=[objects[i % 3] for i in range(len(chosen))])
    chosen.to_json(folder / "facts.json")
    (folder / "train.py").write_text(TRAIN)
    return folder, chosen


def command(given, out, jobs: list[dict]) -> list[str]:
    folder = given[0]
    return [*map(str, (folder / "train.py", folder, out, folder / "facts.json")), json.dumps(jobs)]


def job(model: str, name: str, **options) -> dict:
    return {"model": model, "name": name, "recipe": RECIPES[model] | COMMON, **options}


@pytest.fixture(scope="module")
def alone(given):
    """The losses and the weights by model that one process gives with a whole network."""
    results = {}
    for name, sizes in RECIPES.items():
        network, tokenizer = load_model(given[0] / name, device="cpu")
        recipe = Recipe(**sizes, **COMMON)
        losses = sft.finetune(network, tokenizer, given[1], recipe, dtype=torch.float32)["loss"]
        results[name] = losses, {n: p.detach() for n, p in network.named_parameters()}
    return results


@pytest.fixture(scope="module")
def launched(given, tmp_path_factory):
    """The folder that two processes wrote to, started by `accelerate launch`."""
    out = tmp_path_factory.mktemp("launched")
    jobs = [
        job("untied", "plain", restored=RESTORED),
        job("tied", "plain"),
        job("untied", "recomputed", sharding={"recompute": True}),
        job("tied", "offloaded", sharding={"offload": True}),
        job("untied", "bfloat16", dtype="bfloat16"),
    ]
    options = ["--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}  # the recipe says otherwise
    done = subprocess.run(
        launcher + command(given, out, jobs), env=environment, capture_output=True, text=True,
        timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize(
    ("model", "name"),
    [("untied", "plain"), ("tied", "plain"), ("untied", "recomputed"), ("tied", "offloaded")],
)
def test_two_processes_give_the_losses_and_the_checkpoint_of_one(alone, launched, model, name):
    losses, weights = alone[model]
    result = json.loads((launched / f"{model}-{name}.json").read_text())
    assert result["loss"] == pytest.approx(losses, rel=1e-5)
    written = load_file(launched / f"{model}-{name}.safetensors")
    assert written.keys() == weights.keys()
    ours, expected = (
        torch.cat([held[n].flatten() for n in weights]) for held in (written, weights)
    )
    assert (ours - expected).norm() < 1e-4 * expected.norm()
    assert all(written[name].dtype is torch.float32 for name in written)


def test_products_in_bfloat16_move_the_losses_by_rounding_alone(alone, launched):
    result = json.loads((launched / "untied-bfloat16.json").read_text())
    assert result["loss"] != alone["untied"][0]
    assert result["loss"] == pytest.approx(alone["untied"][0], rel=0.01)


@pytest.mark.parametrize(("score_dtype", "percent"), RESTORED)
def test_two_processes_restore_exactly_what_one_does(given, launched, score_dtype, percent):
    """Each counts a part of the blocks and holds a part of the rows of the network."""
    tuned = load_file(launched / "untied-plain.safetensors")
    base = Checkpoint(given[0] / "untied")
    ranking = restore.rank(base, tuned, score_dtype=getattr(torch, score_dtype))
    cut = restore.thresholds(ranking, [percent])[percent]
    assert score_dtype == "float32" or 1 < cut.ties < cut.equal
    report = json.loads((launched / f"untied-plain-{percent}.json").read_text())
    assert report["cut"] == vars(cut)
    assert report["places"] == restore.by_tensor(ranking, [percent])[percent].tolist()
    shares = restore.concentration(ranking, [percent])["share_of_change_percent"]
    assert report["change"] == shares.item()
    restored = load_file(launched / f"untied-plain-{percent}.safetensors")
    undone = load_file(launched / f"untied-plain-{percent}-undone.safetensors")
    chosen = torch.from_numpy(restore.selected(ranking, percent))
    sizes = [shape.numel() for shape in ranking.shapes.values()]
    masks = dict(zip(ranking.shapes, chosen.split(sizes), strict=True))
    for name, values in tuned.items():
        mask = masks.get(name, torch.zeros(values.numel(), dtype=torch.bool)).view(values.shape)
        assert torch.equal(restored[name], torch.where(mask, base[name], values))
        assert torch.equal(undone[name], values)


# --- killed and started again ---------------------------------------------------------------------


def start(given, out, jobs: list[dict], number: int = 2) -> list[subprocess.Popen]:
    """Start the processes of one fine-tuning without a launcher, and return them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": str(number)}
    settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *command(given, out, jobs)],
            env=os.environ | settings | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(number)
    ]


def test_a_killed_fine_tuning_goes_on_with_the_same_losses(given, launched, tmp_path):
    """kill -9 of both processes after the first of six steps; then the same command again."""
    processes = start(given, tmp_path, [job("untied", "resumed", resumed=True, slow=2)])
    wait_until((tmp_path / "progress" / "step-00000001" / "progress.json").exists, processes)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    assert not (tmp_path / "untied-resumed.json").exists()
    again = start(given, tmp_path, [job("untied", "resumed", resumed=True, slow=0.01)])
    for process in again:
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, errors[-3000:]
    steps = [float(line) for line in (tmp_path / "steps").read_text().splitlines()]
    undisturbed = json.loads((launched / "untied-plain.json").read_text())["loss"]
    resumed = json.loads((tmp_path / "untied-resumed.json").read_text())["loss"]
    assert resumed == undisturbed
    assert len(steps) <= len(undisturbed) + 1  # at most one step, which was not kept, taken twice
    first = load_file(tmp_path / "untied-resumed.safetensors")
    second = load_file(launched / "untied-plain.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in second)


def wait_until(condition, processes: list[subprocess.Popen]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        stopped = [process for process in processes if process.poll() is not None]
        assert not stopped, stopped[0].stderr.read()[-3000:]
        assert time.monotonic() < end, "the processes hang"
        time.sleep(0.2)


# --- what a launch says ---------------------------------------------------------------------------

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "RANK": "0", "WORLD_SIZE": "2"}


def test_the_launch_says_how_to_divide():
    assert sharding({}) is None
    assert sharding(FSDP) == Sharding()
    options = {"FSDP_OFFLOAD_PARAMS": "true", "FSDP_ACTIVATION_CHECKPOINTING": "True"}
    assert sharding(FSDP | options) == Sharding(offload=True, recompute=True)
    stored = sharding(FSDP | {"REPRO_FINETUNED_DTYPE": "float32"})
    assert stored.parameters(2) == {"sharding": {"processes": 2, "stored": "float32"}}
    check_launch(FSDP)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"FSDP_VERSION": "1"}, "--fsdp_version 2"),
        ({"REPRO_FINETUNED_DTYPE": "float16"}, "REPRO_FINETUNED_DTYPE is 'float16'"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
    ],
)
def test_a_launch_that_cannot_work_is_refused_in_one_line(settings, said):
    with pytest.raises(ConfigError, match=said) as error:
        check_launch(FSDP | settings)
    assert "\n" not in str(error.value)


def test_fsdp_without_processes_is_refused():
    with pytest.raises(ConfigError, match="RANK is not set"):
        check_launch({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
