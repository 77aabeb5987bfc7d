"""Which files of a folder hold its weights, and its identity however they are stored."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from repro.errors import ModelError
from repro.models import loading, registry, weights
from repro.models.checkpoint_files import weight_files
from repro.models.hub import INDEX
from repro.restoration.checkpoints import Checkpoint


def identity(folder) -> str:
    return weights.weights_id(registry.entry(folder))


def resharded(source, target, change: float = 0.0):
    """Write a model of a folder in other shards, with `change` added to its last norm."""
    network = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        network.model.norm.weight += change
    network.save_pretrained(target, max_shard_size="30KB")
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    assert len(list(target.glob("*.safetensors"))) > 1
    return target


@pytest.fixture
def stale(tiny_model, tmp_path):
    """A folder with the true `model.safetensors` beside shards of other weights and their index."""
    folder = resharded(tiny_model, tmp_path / "stale", change=1.0)
    shutil.copy(tiny_model / "model.safetensors", folder)
    return folder


def test_stale_shards_are_read_by_none(tiny_model, stale, tmp_path):
    true = load_file(tiny_model / "model.safetensors")
    theirs = AutoModelForCausalLM.from_pretrained(stale).state_dict()
    loaded = loading.load_model(stale, device="cpu")[0].state_dict()
    tool = Checkpoint(stale)
    assert weight_files(stale) == [stale / "model.safetensors"] == tool.files
    for name, tensor in true.items():
        for read in (theirs, loaded, tool):
            assert torch.equal(read[name], tensor), name
    assert identity(stale) == identity(tiny_model)


def test_shards_alone_are_read_by_their_index(tiny_model, tmp_path):
    folder = resharded(tiny_model, tmp_path / "shards")
    (folder / "left-over.safetensors").write_bytes(b"of another model")
    network, _ = loading.load_model(folder, device="cpu")
    tool = Checkpoint(folder)
    for name, tensor in load_file(tiny_model / "model.safetensors").items():
        assert torch.equal(network.state_dict()[name], tensor)
        assert torch.equal(tool[name], tensor)


def test_weights_that_the_configuration_names_come_first(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "named")
    other = resharded(tiny_model, tmp_path / "other", change=1.0)
    for path in [*other.glob("*.safetensors"), other / INDEX]:
        shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": INDEX}))
    network, _ = loading.load_model(folder, device="cpu")
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    norm = load_file(tiny_model / "model.safetensors")["model.norm.weight"] + 1.0
    assert torch.equal(theirs.model.norm.weight, norm)
    assert torch.equal(network.model.norm.weight, norm)
    assert torch.equal(Checkpoint(folder)["model.norm.weight"], norm)
    (folder / INDEX).unlink()
    with pytest.raises(ModelError, match="names weights that are not in its folder"):
        loading.load_model(folder, device="cpu")


def test_another_layout_of_the_same_content_is_the_same_model(tiny_model, tmp_path):
    folder = resharded(tiny_model, tmp_path / "shards")
    (folder / "trainer_state.json").write_text('{"step": 3}')
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        fields = json.loads(path.read_text())
        text = json.dumps(dict(reversed(fields.items())), indent=3).replace("\n", "\r\n")
        path.write_text(text, newline="")
    assert identity(folder) == identity(tiny_model)
    assert identity(resharded(tiny_model, tmp_path / "moved", 1e-3)) != identity(tiny_model)


def test_a_resharded_copy_of_a_bundled_model_shares_its_records(tmp_path):
    model = registry.entry("micro-s")
    folder = resharded(weights.bundled_folder(model), tmp_path / "copy")
    assert identity(folder) == weights.weights_id(model)


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (0, 40), (0, 20_000)])
def test_damaged_weights_have_no_identity(tiny_model, tmp_path, start, stop):
    folder = shutil.copytree(tiny_model, tmp_path / "broken")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[start:stop])
    with pytest.raises(ModelError, match="truncated or damaged"):
        identity(folder)


def test_an_adapter_beside_weights_is_refused(tiny_model, tmp_path):
    """transformers would load the model that the adapter names, and not these weights."""
    folder = shutil.copytree(tiny_model, tmp_path / "adapted")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "another"}')
    for read in (lambda f: loading.load_model(f, device="cpu"), identity, Checkpoint):
        with pytest.raises(ModelError, match="holds a LoRA adapter: merge it"):
            read(folder)
