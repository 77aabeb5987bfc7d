"""Restoration from folder to folder: what is written, independence of sharding, every error."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_restore import bits, moved, network
from transformers import AutoModelForCausalLM

from repro import cli
from repro.errors import ConfigError, ModelError, StoreError
from repro.models.hub import INDEX
from repro.restoration import checkpoints, restore, restore_folder
from repro.restoration.checkpoint_pair import Models, Settings, Work

UP = "model.layers.1.mlp.up_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WORK = Work()
STRATEGIES = ["top", "bottom", "random", "absolute", "interpolate"]


def save(folder: Path, weights: dict, shards: int = 1, dtype=None, tie: bool = False) -> Path:
    """Write weights as a model folder of so many shards, dealt out like cards."""
    model = network(tie_word_embeddings=tie)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"no model needs this")
    weights = {n: w.to(dtype or w.dtype).contiguous() for n, w in weights.items()}
    if shards == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    names = sorted(weights, key=lambda name: hashlib.md5(name.encode()).digest())
    dealt = {name: files[i % shards] for i, name in enumerate(names)}
    for file in files:
        part = {n: weights[n] for n in names if dealt[n] == file}
        save_file(part, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": dealt}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def read(folder: Path) -> dict:
    """Return all tensors of a folder."""
    return {n: w for p in sorted(folder.glob("*.safetensors")) for n, w in load_file(p).items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[n].dtype == other[n].dtype and torch.equal(bits(one[n]), bits(other[n])) for n in one
    )


@pytest.fixture
def weights():
    """(before, after), float32, with separate input and output embeddings."""
    before = dict(network(tie_word_embeddings=False).state_dict())
    return before, moved(before, 0.6)


@pytest.fixture
def pair(tmp_path, weights):
    """(folder before, folder after), one file each."""
    return save(tmp_path / "base", weights[0]), save(tmp_path / "tuned", weights[1])


def run(pair, out, percents=(20.0,), work=WORK, overwrite=False, **settings) -> list[dict]:
    return restore_folder.restore(
        Models(*pair), out, percents, Settings(**settings), work, overwrite
    )


# --- what is written --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_is_what_the_network_in_memory_becomes(pair, weights, tmp_path, strategy):
    before, after = weights
    run(pair, tmp_path / "out", strategy=strategy)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    model = network(tie_word_embeddings=False)
    model.load_state_dict(after)
    if strategy == restore.INTERPOLATE:
        way = restore.interpolated(model, restore.pair(before, after), 20)
    else:
        ranking = restore.rank(before, after, strategy=strategy)
        way = restore.restored(model, before, after, ranking, 20)
    with way:
        assert same(dict(loaded.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_and_everything(pair, weights, tmp_path, strategy):
    before, after = weights
    reports = run(pair, tmp_path / "out", (0.0, 100.0), strategy=strategy, region="all")
    assert same(read(tmp_path / "out" / "0"), after)
    assert same(read(tmp_path / "out" / "100"), before)
    assert [r["change_restored_percent"] for r in reports] == [0, 100]
    moved = sum(int((before[n] != after[n]).sum()) for n in before)
    assert [r["differ"] for r in reports] == [0, moved]


@pytest.mark.parametrize("strategy", STRATEGIES[:4])
@pytest.mark.parametrize("score_dtype", ["float32", "bfloat16"])
def test_exactly_k_are_restored_and_the_report_counts_them(
    pair, weights, tmp_path, strategy, score_dtype
):
    before, after = weights
    (report,) = run(pair, tmp_path / "out", (33.3,), strategy=strategy, score_dtype=score_dtype)
    out = read(tmp_path / "out")
    names = [n for n in after if "layers" in n and "norm" not in n]
    assert (report["n"], report["k"]) == (4992, 1662)
    assert report["differ"] == sum(int((out[n] != after[n]).sum()) for n in names)
    assert all(torch.where(out[n] != after[n], before[n], after[n]).equal(out[n]) for n in names)
    assert sum(t["k"] for t in report["tensors"].values()) == 1662
    rest = after.keys() - set(names)
    assert same({n: out[n] for n in rest}, {n: after[n] for n in rest})


def test_interpolation_goes_the_same_part_of_every_way(pair, weights, tmp_path):
    run(pair, tmp_path / "out", (25.0,), strategy="interpolate")
    out = read(tmp_path / "out")[UP]
    before, after = (w[UP] for w in weights)
    torch.testing.assert_close(out, after + 0.25 * (before - after))
    assert not torch.equal(out, after)


def test_regions_and_layers_bound_what_is_touched(pair, weights, tmp_path):
    run(pair, tmp_path / "out", (100.0,), region="mlp", layers="1")
    before, after = weights
    expected = {n: before[n] if "layers.1.mlp" in n else after[n] for n in after}
    assert same(read(tmp_path / "out"), expected)


def test_the_folder_holds_all_a_model_needs_and_no_more(pair, tmp_path):
    (report,) = run(pair, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
        "restore.json", "README.md",
    }  # fmt: skip
    written = json.loads((tmp_path / "out" / "restore.json").read_text())
    for which, folder in zip(("base", "tuned"), pair, strict=True):
        text = (folder / "model.safetensors").read_bytes()
        assert written["sha256"][which] == {"model.safetensors": hashlib.sha256(text).hexdigest()}
    assert written == report | {"sha256": written["sha256"]}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "20 % restored" in card and "998 of 4,992 parameters" in card
    assert list(tmp_path.glob(".*")) == []


def test_the_threshold_is_the_smallest_restored_score(pair, weights, tmp_path):
    (report,) = run(pair, None, (20.0,))
    ranking = restore.rank(*weights)
    assert report["threshold"] == restore.thresholds(ranking, [20.0])[20.0].threshold
    table = restore.concentration(ranking, [20.0])
    assert report["change_restored_percent"] == table["share_of_change_percent"][0]


def test_folders_of_close_percentages_are_apart(pair, tmp_path):
    run(pair, tmp_path / "out", (12.34567, 12.345671, 7.0))
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"12.34567", "12.345671", "7"}


def test_dry_run_writes_nothing_and_reports_the_same(pair, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    planned = run(pair, None, (20.0, 40.0))
    assert sorted(tmp_path.rglob("*")) == before
    assert run(pair, tmp_path / "out", (20.0, 40.0)) == planned


# --- independence -----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_depends_on_shards_blocks_or_threads(weights, tmp_path, strategy):
    settings = {"strategy": strategy, "region": "all", "seed": 5}
    results = []
    for place, (first, second, block, threads) in enumerate(
        [(1, 1, 1 << 22, 1), (3, 1, 1000, 2), (2, 5, 77, 3)]
    ):
        pair = (
            save(tmp_path / f"base{place}", weights[0], first),
            save(tmp_path / f"tuned{place}", weights[1], second),
        )
        (report,) = run(pair, tmp_path / f"out{place}", work=Work(threads, block), **settings)
        report = {k: v for k, v in report.items() if k not in ("base", "tuned")}
        results.append((read(tmp_path / f"out{place}"), report))
        assert {p.name for p in (tmp_path / f"out{place}").glob("model*")} == {
            p.name for p in pair[1].glob("model*")
        }
    assert same(results[0][0], results[1][0]) and same(results[0][0], results[2][0])
    assert results[0][1] == results[1][1] == results[2][1]


@pytest.mark.parametrize("first", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("second", [torch.float32, torch.bfloat16, torch.float16])
def test_types_may_differ_and_tuneds_is_kept(weights, tmp_path, first, second):
    pair = (
        save(tmp_path / "base", weights[0], dtype=first),
        save(tmp_path / "tuned", weights[1], dtype=second),
    )
    (report,) = run(pair, tmp_path / "out", (100.0,))
    out = read(tmp_path / "out")
    names = list(report["tensors"])
    before = {n: weights[0][n].to(first) for n in names}
    assert same({n: out[n] for n in names}, {n: w.to(second) for n, w in before.items()})
    rounded = sum(int((w.to(second).float() != w.float()).sum()) for w in before.values())
    assert report["rounded"] == rounded
    if first is second or second is torch.float32:
        assert rounded == 0


def test_types_may_be_mixed_within_a_model(weights, tmp_path):
    before, after = weights
    after[UP] = after[UP].bfloat16()
    before[UP] = before[UP].half()
    pair = save(tmp_path / "base", before), save(tmp_path / "tuned", after)
    run(pair, tmp_path / "out", (100.0,))
    assert read(tmp_path / "out")[UP].equal(before[UP].bfloat16())


# --- tied embeddings --------------------------------------------------------------------------


def test_tied_models_may_store_the_output_matrix_or_not(weights, tmp_path):
    embeddings = []
    for place, stored in enumerate([(False, False), (False, True), (True, False), (True, True)]):
        pair = []
        for name, source, keep in zip(("base", "tuned"), weights, stored, strict=True):
            written = {n: w for n, w in source.items() if n != HEAD}
            written |= {HEAD: written[EMBEDDING].clone()} if keep else {}
            pair.append(save(tmp_path / f"{name}{place}", written, tie=True))
        (report,) = run(pair, tmp_path / f"out{place}", (50.0,), region="embedding")
        out = read(tmp_path / f"out{place}")
        assert (report["n"], report["k"]) == (640, 320)
        assert (HEAD in out) == stored[1]
        assert HEAD not in out or out[HEAD].equal(out[EMBEDDING])
        embeddings.append(out[EMBEDDING])
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / f"out{place}")
        assert loaded.lm_head.weight.equal(out[EMBEDDING])
    assert all(f.equal(embeddings[0]) for f in embeddings)


def test_an_output_matrix_trained_apart_goes_back_to_the_embedding(weights, tmp_path):
    before = {n: w for n, w in weights[0].items() if n != HEAD}
    pair = save(tmp_path / "base", before, tie=True), save(tmp_path / "tuned", weights[1])
    (report,) = run(pair, tmp_path / "out", (100.0,), region="embedding")
    out = read(tmp_path / "out")
    assert report["n"] == 1280
    assert out[HEAD].equal(before[EMBEDDING]) and out[EMBEDDING].equal(before[EMBEDDING])


def test_an_output_matrix_of_base_alone_is_another_architecture(weights, tmp_path):
    after = {n: w for n, w in weights[1].items() if n != HEAD}
    pair = save(tmp_path / "base", weights[0]), save(tmp_path / "tuned", after, tie=True)
    with pytest.raises(ModelError, match=rf"{HEAD} is missing from .*tuned"):
        run(pair, tmp_path / "out")


def test_biases_are_restored_too(tmp_path):
    before = dict(network(tie_word_embeddings=False, attention_bias=True).state_dict())
    after = {n: w + 1 for n, w in before.items()}
    pair = save(tmp_path / "base", before), save(tmp_path / "tuned", after)
    (report,) = run(pair, tmp_path / "out", (100.0,))
    bias = "model.layers.0.self_attn.q_proj.bias"
    assert bias in report["tensors"] and read(tmp_path / "out")[bias].equal(before[bias])


def test_angles_of_an_old_checkpoint_are_copied(weights, tmp_path):
    angles = "model.layers.0.self_attn.rotary_emb.inv_freq"
    weights[1][angles] = torch.ones(4)
    pair = save(tmp_path / "base", weights[0]), save(tmp_path / "tuned", weights[1])
    run(pair, tmp_path / "out", (100.0,))
    assert read(tmp_path / "out")[angles].tolist() == [1] * 4


# --- errors -----------------------------------------------------------------------------------


def as_shard(folder: Path) -> str:
    """Name the weights as a shard: an index is read where there is no `model.safetensors`."""
    name = "model-00001.safetensors"
    (folder / "model.safetensors").rename(folder / name)
    return name


def broken_index(folder: Path) -> None:
    as_shard(folder)
    index = {"weight_map": {UP: "model-00007.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))


def shifted_index(folder: Path) -> None:
    names = dict.fromkeys([*read(folder), "model.more.weight"], as_shard(folder))
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gemma3_text"}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapter(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def twice(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "a.safetensors")
    (folder / "model.safetensors").rename(folder / "b.safetensors")


@pytest.mark.parametrize("which", [0, 1], ids=["base", "tuned"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, r"model\.safetensors is truncated or damaged"),
        (broken_index, r"model-00007\.safetensors is missing"),
        (shifted_index, r"lacks model\.more\.weight"),
        (other_family, "gemma3_text"),
        (pickled, "pickle"),
        (adapter, "LoRA"),
        (twice, r"in both a\.safetensors and b\.safetensors"),
    ],
)
def test_a_damaged_folder_is_named_and_nothing_is_left(pair, tmp_path, which, damage, said):
    damage(pair[which])
    with pytest.raises(ModelError, match=said):
        run(pair, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"base", "tuned"}


def without(weights: dict) -> None:
    del weights[UP]


def with_added_tokens(weights: dict) -> None:
    weights[UP.replace("up", "side")] = torch.ones(3)


def narrower(weights: dict) -> None:
    weights[UP] = weights[UP][:, :-1]


def nan(weights: dict) -> None:
    weights[UP][3, 2] = torch.nan


def infinite(weights: dict) -> None:
    weights[UP][-1, -1] = -torch.inf


def whole_numbers(weights: dict) -> None:
    weights[UP] = weights[UP].to(torch.int8)


@pytest.mark.parametrize("which", [0, 1], ids=["base", "tuned"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without, f"{UP} is missing from the"),
        (with_added_tokens, "side_proj.weight is missing from the"),
        (narrower, f"{UP} has different shapes"),
        (nan, f"{UP} holds NaN or infinity"),
        (infinite, f"{UP} holds NaN or infinity"),
        (whole_numbers, f"{UP} is of int8"),
    ],
)
def test_a_wrong_tensor_is_named_and_nothing_is_left(
    weights, tmp_path, which, strategy, damage, said
):
    damage(weights[which])
    pair = save(tmp_path / "base", weights[0]), save(tmp_path / "tuned", weights[1])
    with pytest.raises(ModelError, match=said):
        run(pair, tmp_path / "out", strategy=strategy)
    assert {p.name for p in tmp_path.iterdir()} == {"base", "tuned"}


def test_what_is_only_copied_may_hold_anything(weights, tmp_path):
    """A damaged tensor that is not restored is TUNED's own affair: it is kept bit for bit."""
    weights[1]["model.norm.weight"][0] = torch.nan
    pair = save(tmp_path / "base", weights[0]), save(tmp_path / "tuned", weights[1])
    run(pair, tmp_path / "out")
    norm = "model.norm.weight"
    assert torch.equal(bits(read(tmp_path / "out")[norm]), bits(weights[1][norm]))


# --- models that differ outside what is restored ----------------------------------------------


def test_tokens_added_in_fine_tuning_stay(weights, tmp_path):
    """Embeddings with more rows, an added head and a type that cannot be ranked are kept."""
    before, after = weights
    expected = run((save(tmp_path / "b0", before), save(tmp_path / "t0", after)), tmp_path / "o0")
    plain = read(tmp_path / "o0")
    added = {
        EMBEDDING: torch.cat([after[EMBEDDING], torch.ones(3, after[EMBEDDING].shape[1])]),
        HEAD: torch.cat([after[HEAD], torch.zeros(3, after[HEAD].shape[1])]),
        "v_head.summary.weight": torch.full((1, 8), 2.0),
        "scales": torch.ones(4).to(torch.float8_e4m3fn),
        "steps": torch.ones(2, dtype=torch.float64),
    }
    pair = save(tmp_path / "base", before), save(tmp_path / "tuned", after | added)
    (report,) = run(pair, tmp_path / "out")
    out = read(tmp_path / "out")
    assert same(out, plain | added)
    left = report["left_as_they_are"]
    assert set(left["shapes"]) == {EMBEDDING, HEAD}
    assert set(left["only_tuned"]) == {"v_head.summary.weight", "scales", "steps"}
    assert left["only_base"] == []
    assert {k: report[k] for k in ("n", "k", "tensors")} == {
        k: expected[0][k] for k in ("n", "k", "tensors")
    }
    for region, said in (("embedding", "different shapes"), ("all", "is missing from the pre-")):
        with pytest.raises(ModelError, match=rf"{said}.*--region without it"):
            run(pair, tmp_path / "other", region=region)


def test_the_command_says_what_it_left(weights, tmp_path, capsys):
    before, after = weights
    after = {f"_orig_mod.{n}": w for n, w in after.items()} | {"v_head.weight": torch.ones(2)}
    pair = save(tmp_path / "base", before), save(tmp_path / "tuned", after)
    words = ["restore", *map(str, pair), str(tmp_path / "out"), "--percent", "20"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert re.search(r"TUNED: compared _orig_mod\.(\S+) as \1\n", out)
    assert "1 tensors only TUNED has, kept as they are: v_head.weight" in out


PREFIXES = {
    "_orig_mod.": lambda name: f"_orig_mod.{name}",
    "module.": lambda name: f"module.{name}",
    "module.module._orig_mod.": lambda name: f"module.module._orig_mod.{name}",
    "model._orig_mod.": lambda name: name.replace("model.", "model._orig_mod."),
    "language_model.": lambda name: f"language_model.{name}",
    "model.language_model.": lambda name: name.replace("model.", "model.language_model."),
    "base_model.model.": lambda name: f"base_model.model.{name}",
    "without model.": lambda name: name.removeprefix("model."),
}


@pytest.mark.parametrize("prefixed", [0, 1], ids=["base", "tuned"])
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("tie", [False, True])
def test_a_prefix_of_one_model_changes_nothing(weights, tmp_path, prefix, prefixed, tie):
    if tie:
        for one in weights:
            one[HEAD] = one[EMBEDDING].clone()
    (plain,) = run(
        (save(tmp_path / "b0", weights[0]), save(tmp_path / "t0", weights[1])), tmp_path / "o0",
        region="all",
    )  # fmt: skip
    expected = read(tmp_path / "o0")
    named = [dict(one) for one in weights]
    named[prefixed] = {PREFIXES[prefix](n): w for n, w in weights[prefixed].items()}
    pair = save(tmp_path / "base", named[0]), save(tmp_path / "tuned", named[1])
    (report,) = run(pair, tmp_path / "out", region="all")
    if prefixed:
        expected = {PREFIXES[prefix](n): w for n, w in expected.items()}
    assert same(read(tmp_path / "out"), expected)
    assert (report["k"], report["differ"]) == (plain["k"], plain["differ"])
    assert report["renamed"] and not plain["renamed"]
    assert not any(report["left_as_they_are"].values())


def test_a_value_that_tuneds_type_cannot_hold_is_refused(weights, tmp_path):
    """1e5 is infinite in float16: it is not written, whichever strategy would choose it."""
    weights[0][UP][2, 1] = 1e5
    pair = save(tmp_path / "base", weights[0]), save(tmp_path / "tuned", weights[1], 1, torch.half)
    for strategy in STRATEGIES:
        with pytest.raises(ModelError, match=rf"{UP} in BASE, 100000, is too large for float16"):
            run(pair, tmp_path / "out", (100.0,), strategy=strategy)
        assert {p.name for p in tmp_path.iterdir()} == {"base", "tuned"}
    run(pair, tmp_path / "out", (0.0,))  # nothing of BASE is written


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_subnormals_and_negative_zeros_are_numbers(weights, tmp_path, dtype):
    small = torch.finfo(dtype).smallest_normal / 4
    for place, one in enumerate(weights):
        one[UP][0] = torch.tensor([small, -small, -0.0, 0.0]).repeat(4) * (1 if place else -1)
    pair = [save(tmp_path / n, w, 1, dtype) for n, w in zip("bt", weights, strict=True)]
    (report,) = run(pair, tmp_path / "out", (100.0,))
    assert same({UP: read(tmp_path / "out")[UP]}, {UP: read(pair[0])[UP]})
    assert report["k"] == report["n"]


def test_a_named_pipe_in_place_of_weights_is_not_waited_for(pair, tmp_path):
    (pair[0] / "model.safetensors").unlink()
    os.mkfifo(pair[0] / "model.safetensors")
    with pytest.raises(ModelError, match="not a regular file"):
        run(pair, tmp_path / "out")


def test_true_weights_beside_stale_shards_are_the_ones_restored(weights, tmp_path):
    """transformers reads model.safetensors and no index beside it; so does the tool."""
    pair = save(tmp_path / "base", weights[0]), save(tmp_path / "tuned", weights[0], 2)
    save_file(weights[1], pair[1] / "model.safetensors", {"format": "pt"})
    (report,) = run(pair, tmp_path / "out", (100.0,))
    assert report["differ"] == sum(
        int((weights[0][n] != weights[1][n]).sum()) for n in report["tensors"]
    )
    assert {p.name for p in (tmp_path / "out").glob("model*")} == {"model.safetensors"}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert loaded[UP].equal(weights[0][UP])


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a file system of 256 kB."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_in_the_middle(pair, small_disk):
    # Room for everything when it begins; the filler arrives with the first block of the writing.
    room = 256 << 10
    progress = []

    def fill(size: int) -> None:
        progress.append(size)
        if any(small_disk.glob(".out*/new/model.safetensors")):
            with (small_disk / "filler").open("ab", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(bytes(room))

    with pytest.raises(StoreError, match=r"cannot write model\.safetensors \(No space left"):
        run(pair, small_disk / "out", work=Work(block_size=64, progress=fill))
    assert {p.name for p in small_disk.iterdir()} == {"filler"}


def test_a_disk_without_room_is_said_before_anything_is_read(pair, small_disk):
    (small_disk / "filler").write_bytes(bytes(240 << 10))
    with pytest.raises(StoreError, match=r"needs 0\.00 GB and its disk has"):
        run(pair, small_disk / "out", work=Work(progress=lambda size: pytest.fail("was read")))
    assert {p.name for p in small_disk.iterdir()} == {"filler"}


def test_an_existing_target_is_refused_and_replaced_only_if_it_is_ours(pair, tmp_path):
    out = tmp_path / "out"
    run(pair, out, (20.0,))
    before = read(out)
    with pytest.raises(ConfigError, match="exists: give another folder, or --overwrite"):
        run(pair, out, (40.0,))
    assert same(read(out), before)
    run(pair, out, (40.0, 60.0), overwrite=True)
    assert {p.name for p in out.iterdir()} == {"40", "60"}
    run(pair, out, (20.0,), overwrite=True)
    assert same(read(out), before)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=r"holds no restore\.json"):
        run(pair, tmp_path / "mine", overwrite=True)


def test_a_failed_replacement_leaves_the_old_folder(weights, tmp_path):
    pair = save(tmp_path / "base", weights[0]), save(tmp_path / "tuned", weights[1])
    run(pair, tmp_path / "out")
    before = read(tmp_path / "out")
    nan(weights[1])
    save(tmp_path / "tuned", weights[1])
    with pytest.raises(ModelError, match=UP):
        run(pair, tmp_path / "out", (40.0,), overwrite=True)
    assert same(read(tmp_path / "out"), before)


@pytest.mark.parametrize("where", ["tuned", "base", "."])
def test_a_model_is_never_overwritten(pair, tmp_path, where):
    with pytest.raises(ConfigError, match="one of the two models"):
        run(pair, tmp_path / where, overwrite=True)


@pytest.mark.parametrize("strategy", ["top", "interpolate"])
@pytest.mark.parametrize("percents", [(101.0,), (-1.0,), (float("nan"),), (20.0, 20.0)])
def test_wrong_percentages(pair, tmp_path, percents, strategy):
    with pytest.raises(ConfigError, match="percentage"):
        run(pair, tmp_path / "out", percents, strategy=strategy)
    assert not (tmp_path / "out").exists()


def test_a_score_dtype_that_is_none(pair):
    with pytest.raises(ConfigError, match="float32 or bfloat16"):
        run(pair, None, score_dtype="int8")


def test_a_model_that_is_nowhere(pair, tmp_path):
    with pytest.raises(ModelError, match="there is no folder nowhere: give a folder"):
        Models(pair[0], "nowhere")


def test_an_id_of_the_hub_without_the_hub(pair, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"there is no folder someone/some-model, and the Hub"):
        Models(pair[0], "someone/some-model")


def test_a_name_of_the_registry_is_found_under_repro_models(pair, monkeypatch, tmp_path):
    (tmp_path / "llama-3-8b").symlink_to(pair[0], target_is_directory=True)
    monkeypatch.setenv("REPRO_MODELS", str(tmp_path))
    assert checkpoints.find("llama-3-8b") == tmp_path / "llama-3-8b"


# --- the commands -----------------------------------------------------------------------------


def test_rank_prints_the_concentration_and_where_it_is(pair, weights, capsys):
    assert cli.main(["rank", *map(str, pair), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    table = restore.concentration(restore.rank(*weights), [1.0, 3.0, 5.0, 10.0, 20.0, 40.0, 60.0])
    assert report["concentration"] == table.to_dict("records")
    assert [row["layer"] for row in report["layers"]] == [0, 1]
    for part in ("layers", "modules"):
        assert sum(row["top_20_percent"] for row in report[part]) == pytest.approx(100)
    assert cli.main(["rank", *map(str, pair), "--percent", "0", "5", "--json"]) == 0
    lowest, highest = json.loads(capsys.readouterr().out)["concentration"]
    assert lowest["threshold"] is None and highest["threshold"] > 0
    assert cli.main(["rank", *map(str, pair), "--percent", "5"]) == 0
    shown = capsys.readouterr().out
    assert "4,992 parameters in 14 tensors" in shown and "self_attn.v_proj" in shown


def test_restore_from_the_command_line(pair, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["restore", *map(str, pair), str(out), "--percent", "20", "40", "--layers", "0"]
    assert cli.main([*words, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert not out.exists() and [r["k"] for r in planned] == [499, 998]
    assert cli.main(words) == 0
    assert f"written to {out}: one folder per percentage" in capsys.readouterr().out
    written = json.loads((out / "40" / "restore.json").read_text())
    assert {k: written[k] for k in planned[1]} == planned[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--percent", "20"], "give OUT"),
        (["out", "--percent", "120"], "from 0 to 100"),
        (["out", "--percent", "20", "--region", "encoder"], "matches no tensor"),
        (["out", "--percent", "20", "--threads", "0"], "1 or more"),
    ],
)
def test_errors_are_one_line(pair, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["restore", *map(str, pair), *words]) == 1
    message = capsys.readouterr().err.strip()
    assert said in message and message.startswith("repro: ConfigError: ") and "\n" not in message
    assert not (tmp_path / "out").exists()


def test_memory_stays_small_beside_the_mapped_files(tmp_path):
    """24 million parameters in blocks of 2^18: what is allocated stays below one tensor's bytes."""
    code = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from repro.restoration.restore_folder import Models, Settings, Work, restore
folder = Path(sys.argv[1])
for i, name in enumerate(("base", "tuned")):
    (folder / name).mkdir()
    w = torch.randn(24_000_000, generator=torch.Generator().manual_seed(i))
    save_file({"model.layers.0.w": w}, folder / name / "model.safetensors"); del w
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("RssAnon")) << 10
models, work = Models(folder / "base", folder / "tuned"), Work(1, 1 << 18)
peak = []
restore(models, None, [20.0], Settings(), Work(1, 1 << 18))  # compiled and warm
before = anonymous()
watch = Work(1, 1 << 18, lambda size: peak.append(anonymous()))
restore(models, folder / "out", [20.0, 40.0], Settings(), watch)
print(max(peak) - before)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell the memory of a process")
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 48_000_000  # of 96 million bytes in each model
