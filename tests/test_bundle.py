"""The bundled models: whole, small, of the world in this package, and at work from a wheel."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open

from repro.data import atlas, facts
from repro.measures import accuracy
from repro.models import loading, registry, tokens, weights
from repro.training.pretraining import pretrain
from repro.training.prompts import encode_prompts

ROOT = Path(__file__).parents[1]
LIMIT = 25_000_000  # bytes of all weights with what lies beside them
FILES = {
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
    *("tokenizer_config.json", "README.md", "data.json", "loss.csv"),
}
BUNDLED = {name: entry for name, entry in registry.entries().items() if entry.bundled}


@pytest.fixture(params=BUNDLED)
def entry(request):
    return BUNDLED[request.param]


def config(entry):
    return json.loads((weights.locate(entry) / "config.json").read_text())


def counted(entry):
    return json.loads((weights.locate(entry) / "data.json").read_text())


# --- what is there ----------------------------------------------------------------------------


def test_all_together_are_small():
    folders = [weights.bundled_folder(entry) for entry in BUNDLED.values()]
    assert {folder.parent for folder in folders} == {ROOT / "src/repro/weights"}
    sizes = [path.stat().st_size for path in folders[0].parent.rglob("*") if path.is_file()]
    assert 0 < sum(sizes) <= LIMIT


def test_each_has_a_recipe_and_the_same_license():
    assert set(BUNDLED) == set(pretrain.RECIPES)
    assert registry.DEFAULT_MODEL in BUNDLED
    assert {entry.license for entry in BUNDLED.values()} == {"CC-BY-4.0"}


def test_there_are_two_families():
    shared = {}
    for entry in BUNDLED.values():
        heads = (config(entry)["num_attention_heads"], config(entry)["num_key_value_heads"])
        shared.setdefault(entry.family, set()).add(heads[1] < heads[0])
    assert sorted(map(sorted, shared.values())) == [[False], [True]]


def test_a_folder_is_whole(entry):
    folder = weights.locate(entry)
    assert {path.name for path in folder.iterdir()} == FILES
    assert "license: cc-by-4.0" in (folder / "README.md").read_text()
    curve = pd.read_csv(folder / "loss.csv")["loss"]
    assert curve[-100:].mean() < curve[:100].mean() / 2


def test_the_weights_are_a_llama_in_bfloat16(entry):
    with safe_open(weights.locate(entry) / "model.safetensors", "pt") as file:
        tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        assert {part.get_dtype() for part in tensors.values()} == {"BF16"}
        total = sum(torch.Size(part.get_shape()).numel() for part in tensors.values())
    assert total == entry.parameters == counted(entry)["parameters"]
    assert config(entry)["architectures"] == ["LlamaForCausalLM"]


def test_they_were_trained_on_the_world_of_this_package(entry):
    world = atlas.world()
    assert counted(entry)["world"] == {"seed": atlas.SEED, "sha256": facts.data_hash(world="atlas")}
    assert counted(entry)["facts"] == world["split"].value_counts().to_dict()


def test_it_is_pinned_as_a_folder_is(entry):
    folder = weights.locate(entry)
    assert weights.weights_id(entry) == weights.weights_id(registry.entry(folder))


def test_it_loads_like_any_other(entry):
    network, tokenizer = loading.load_model(entry.name, device="cpu")
    assert type(network).__name__ == "LlamaForCausalLM"
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    for ids in encode_prompts(tokenizer, facts.load(world="atlas")["question"]):
        assert tokenizer.unk_token_id not in ids
    assert tokens.prefix_ids(tokenizer) == [tokenizer.bos_token_id]
    assert tokens.stop_ids(network, tokenizer) == {tokenizer.eos_token_id}


# --- in a wheel -------------------------------------------------------------------------------

ANSWER = """
import json, sys
from pathlib import Path
import pandas as pd
import repro
from repro.measures import accuracy
from repro.models import loading, registry, weights
from repro.training import sft
from repro.training.recipe import Recipe

given = json.loads(sys.stdin.read())
train, asked = (pd.DataFrame(given[name]) for name in ("train", "asked"))
network, tokenizer = loading.load_model("micro-m", device="cpu")
before = [c.text for c in accuracy.answer(network, tokenizer, asked)]
sft.finetune(network, tokenizer, train, Recipe(learning_rate=given["rate"]))
after = accuracy.answer(network.eval(), tokenizer, asked)
told = {"before": before, "after": [c.text for c in after], "hits": sum(c.hit for c in after)}
told["where"] = str(Path(repro.__file__).parent)
told["weights"] = weights.weights_id(registry.entry("micro-m"))
print(json.dumps(told))
"""


def clean():
    variables = {name: value for name, value in os.environ.items() if not name.startswith("REPRO_")}
    variables.pop("PYTHONPATH", None)
    return variables | {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1"}


def run(*words, **options):
    options = {"capture_output": True, "text": True, "env": clean(), **options}
    done = subprocess.run([str(word) for word in words], **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Build a wheel of what is in the repository; return the python of a venv that has it."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "source" / name)
    build = ("--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *build, cwd=folder)
    shutil.rmtree(folder / "source")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("repro-*.whl")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=folder)
    # What the package needs is taken from here; a .pth inside that folder is not followed, so
    # an editable installation of the package itself stays out.
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def questions():
    """Return facts to fine-tune on and test questions, all of the two highest exposures."""
    world = atlas.world()
    known_facts = world[world["exposure"].isin(atlas.EXPOSURES[-2:])]
    parts = {
        "train": known_facts[known_facts["split"] == "train"],
        "asked": known_facts[known_facts["split"] == "test"],
    }
    return {name: facts.sample(part, 120, 0) for name, part in parts.items()}


def test_an_installed_wheel_answers_as_the_repository_does(installed, questions, tmp_path):
    rate = registry.entry("micro-m").learning_rate
    sent = {name: part.to_dict("list") for name, part in questions.items()} | {"rate": rate}
    answer = json.loads(
        run(installed, "-c", ANSWER, cwd=tmp_path, input=json.dumps(sent)).splitlines()[-1]
    )
    assert Path(answer["where"]).is_relative_to(installed.parents[1])
    assert answer["weights"] == weights.weights_id(registry.entry("micro-m"))
    network, tokenizer = loading.load_model("micro-m", device="cpu")
    here = accuracy.answer(network, tokenizer, questions["asked"])
    assert answer["before"] == [completion.text for completion in here]
    assert answer["hits"] > len(questions["asked"]) / 3 > sum(c.hit for c in here)


def test_its_command_lists_the_models_as_here(installed, tmp_path):
    out = run(installed.with_name("repro"), "models", cwd=tmp_path)
    lines = {line[2:].split()[0]: line for line in out.splitlines()}
    assert all(lines[name].endswith("here") for name in BUNDLED)
    assert lines[registry.DEFAULT_MODEL].startswith("* ")
