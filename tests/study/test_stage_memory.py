"""What each stage of a sharded study holds: counted on the meta device, and measured as it runs."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from repro.models import shards
from repro.models.sizes import ARCHITECTURES, Architecture
from repro.study import gpu_plan

# A random model of 150 M parameters, as wide as it is deep enough for a layer to be a small part.
SIZES = {"hidden_size": 640, "intermediate_size": 1792, "num_hidden_layers": 24}
SIZES |= {"num_attention_heads": 10, "num_key_value_heads": 5, "vocab_size": 32_000}
LIMIT = 600

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "stages.py"


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_facts) -> dict:
    """What `benchmarks/stages.py` measures of one process."""
    folder = tmp_path_factory.mktemp("large")
    tokens = tiny.tokenizer(tiny.statements(tiny_facts) + tiny_facts["question"].tolist(), bos=True)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES), dtype=torch.bfloat16)
    number = network.num_parameters()
    network.save_pretrained(folder / "model")
    tokens.save_pretrained(folder / "model")
    tiny_facts.query("split == 'train'").head(16).to_json(folder / "facts.json")
    del network
    settings = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "OMP_NUM_THREADS": "1"}
    settings |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings |= {"MASTER_PORT": port, "REPRO_CACHE": str(folder / "cache")}
    command = [BENCHMARK, folder / "model", "--questions", folder / "facts.json"]
    command += ["--mastered", "0", "--out", folder / "stages.json"]
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=os.environ | settings, capture_output=True,
        text=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((folder / "stages.json").read_text(encoding="utf-8"))
    assert record["parameters"] == number
    return record


def test_finetuning_holds_16_bytes_per_parameter_and_what_is_gathered(measured):
    """Float32 weights, gradients and two moments; beside them what the plan counts."""
    number = measured["parameters"]
    size = architecture()
    counted = gpu_plan.finetuning_bytes(size, 1, offload=False) - gpu_plan.LIBRARIES
    assert 16 * number < counted < 20 * number
    assert 14 * number < measured["finetune"] < 1.1 * counted


def test_answering_and_restoring_hold_one_network_in_bfloat16(measured):
    number = measured["parameters"]
    assert 1.9 * number < measured["network"] < 2.5 * number
    assert measured["load"] < 2.5 * number
    assert measured["restoration"] < 1.0 * number  # beside the mapped pages of both models
    assert measured["restored"] > 0 and measured["undone"] is True


def architecture():
    return Architecture(
        SIZES["hidden_size"], SIZES["num_hidden_layers"], SIZES["intermediate_size"],
        SIZES["num_attention_heads"], SIZES["num_key_value_heads"], SIZES["vocab_size"],
    )  # fmt: skip


@pytest.mark.parametrize(("name", "processes"), [("llama-3-8b", 8), ("llama-3-70b", 16)])
def test_the_rows_of_each_process_on_the_meta_device(name, processes):
    """Every process holds an equal part, so 16 bytes per parameter are those of all together."""
    size = ARCHITECTURES[name]
    config = LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, num_hidden_layers=size.layers,
        intermediate_size=size.intermediate, num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
    )  # fmt: skip
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    held = []
    for rank in range(processes):
        held.append(sum(shards.part(p, 0, rank, processes).numel() for p in network.parameters()))
    assert sum(held) == size.parameters
    assert 16 * max(held) * processes == 16 * size.parameters
