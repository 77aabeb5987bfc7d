"""A network divided by tensor parallelism completes as one process does, and is refused if not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from repro.errors import ConfigError
from repro.inference.decoding import Decoding, Prompt, complete, first_logits
from repro.measures import mastery
from repro.models import loading, registry, tensor_parallel
from repro.models.tokens import encode
from repro.restoration import restore
from repro.restoration.checkpoints import Checkpoint

LIMIT = 120  # seconds after which a launch counts as hanging
SAMPLED = {"max_new_tokens": 8, "draws": 3, "temperature": 0.7, "seed": 5}
PERCENT = 30.0
ANSWER = """
import json, sys
from pathlib import Path
import torch
from repro.inference.decoding import Decoding, Prompt, complete, first_logits
from repro.models import registry, tensor_parallel
from repro.models.devices import processes
from repro.restoration import restore
from repro.restoration.checkpoints import Checkpoint

job = json.loads(Path(sys.argv[1]).read_text())
base, tuned = Checkpoint(Path(job["base"])), Checkpoint(Path(job["tuned"]))
network, tokenizer = tensor_parallel.load(registry.entry(job["base"]), tuned, torch.float32)
prompts = [Prompt(ids, tuple(names), label) for ids, names, label in job["prompts"]]

def answers():
    return [
        [[c.ids, c.text, c.hit] for c in samples]
        for decoding in (Decoding(8), Decoding(**job["sampled"]))
        for samples in complete(network, tokenizer, prompts, decoding)
    ]

results = {"tuned": answers(), "group": tensor_parallel.group(network)}
results["logits"] = first_logits(network, [p.ids for p in prompts]).tolist()
ranking = restore.rank(base, tuned, shared=True)
with restore.restored(network, base, tuned, ranking, job["percent"]):
    results["restored"] = answers()
results["undone"] = answers()
results["held"] = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel()
                      for p in network.parameters())
if processes().is_main_process:
    Path(sys.argv[2]).write_text(json.dumps(results))
"""


@pytest.fixture(scope="module")
def job(tiny_model, tiny_loaded, tiny_facts, tmp_path_factory) -> dict:
    """What both sides compute: 30 prompts of several lengths, a base and fine-tuned weights."""
    network, tokenizer = tiny_loaded
    folder = tmp_path_factory.mktemp("tuned")
    generator = torch.Generator().manual_seed(1)
    tuned = {
        name: p.detach() + 0.02 * torch.randn(p.shape, generator=generator)
        for name, p in network.named_parameters()
    }
    network.save_pretrained(folder, state_dict=tuned)
    tokenizer.save_pretrained(folder)
    prompts = mastery.prompts(tokenizer, tiny_facts.iloc[::20], 5)
    prompts += [Prompt(ids) for ids in encode(tokenizer, ["Where", "Who wrote the book of Ova?"])]
    return {
        "base": str(tiny_model), "tuned": str(folder), "percent": PERCENT, "sampled": SAMPLED,
        "prompts": [[prompt.ids, prompt.names, prompt.label] for prompt in prompts],
    }  # fmt: skip


def launch(script, number: int, *arguments) -> subprocess.CompletedProcess:
    options = ["--multi_gpu", "--num_processes", str(number), "--main_process_port", "0"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, *map(str, (script, *arguments))], env=environment, capture_output=True,
        text=True, timeout=LIMIT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(job) -> dict:
    """What one process answers with whole networks."""
    base, tuned = Checkpoint(Path(job["base"])), Checkpoint(Path(job["tuned"]))
    model = registry.entry(job["base"])
    network, tokenizer = loading.load_mapped(model, tuned, torch.float32)
    prompts = [Prompt(ids, tuple(names), label) for ids, names, label in job["prompts"]]

    def answers() -> list:
        return [
            [[c.ids, c.text, c.hit] for c in samples]
            for decoding in (Decoding(8), Decoding(**SAMPLED))
            for samples in complete(network, tokenizer, prompts, decoding)
        ]

    results = {"tuned": answers(), "logits": first_logits(network, [p.ids for p in prompts])}
    with restore.restored(network, base, tuned, restore.rank(base, tuned), PERCENT):
        results["restored"] = answers()
    results["parameters"] = network.num_parameters()
    return results


@pytest.mark.parametrize(("number", "groups"), [(2, 1), (4, 2)])
def test_processes_that_divide_a_network_complete_as_one(job, alone, tmp_path, number, groups):
    script, given, out = (tmp_path / name for name in ("answer.py", "job.json", "out.json"))
    script.write_text(ANSWER)
    given.write_text(json.dumps(job))
    done = launch(script, number, given, out)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(out.read_text())
    assert results["group"] == [0, groups, 2, 0]
    assert results["tuned"] == alone["tuned"] == results["undone"]
    assert results["restored"] == alone["restored"] != alone["tuned"]
    assert (torch.tensor(results["logits"]) - alone["logits"]).abs().max() < 1e-4
    # All matrices are divided, and the norms alone are whole.
    assert 0.5 * alone["parameters"] <= results["held"] < 0.51 * alone["parameters"]


def test_heads_that_cannot_be_divided_are_refused_in_one_line(tmp_path, tiny_loaded):
    config = LlamaConfig(
        vocab_size=len(tiny_loaded[1]), hidden_size=48, intermediate_size=90, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=3, max_position_embeddings=128,
    )  # fmt: skip
    folder = tmp_path / "three-heads"
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_loaded[1].save_pretrained(folder)
    script, given = tmp_path / "answer.py", tmp_path / "job.json"
    script.write_text(ANSWER)
    given.write_text(json.dumps({"base": str(folder), "tuned": str(folder)}))
    done = launch(script, 2, given, tmp_path / "out.json")
    assert done.returncode != 0
    assert "a network with 6 attention heads and 3 of keys cannot be divided" in done.stderr


@pytest.mark.parametrize(("heads", "key_heads", "number", "size"), [
    (64, 8, 8, 8), (64, 8, 16, 8), (64, 8, 12, 4), (6, 3, 3, 3), (6, 3, 9, 3), (8, 1, 4, None),
    (6, 3, 2, None),
])  # fmt: skip
def test_a_group_is_as_large_as_the_heads_allow(heads, key_heads, number, size):
    config = LlamaConfig(
        hidden_size=8 * heads, num_attention_heads=heads, num_key_value_heads=key_heads
    )
    if size is None:
        with pytest.raises(ConfigError, match="REPRO_TENSOR_PARALLEL=false"):
            tensor_parallel.size_of_group(config, number)
    else:
        assert tensor_parallel.size_of_group(config, number) == size


def test_fused_matrices_are_refused():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = Phi3Config(**sizes, num_attention_heads=4, vocab_size=100, pad_token_id=0)
    with torch.device("meta"):
        network = Phi3ForCausalLM(config)
    with pytest.raises(ConfigError, match="fused matrices"):
        tensor_parallel._divide(network, None)
