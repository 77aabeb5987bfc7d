"""Ranking two checkpoints: ours, the straightforward way, and just reading them, side by side.

On one pair of models, each way in a process of its own, in turn:

(a) ours: exact thresholds and concentration of seven shares, from mapped files;
(b) in memory, as the authors' released tool does it: both models loaded, all scores in one flat
    vector, `torch.topk` for every share;
(c) the floor: both checkpoints read and every tensor summed.

For SmolLM2 (fine-tuned for a few steps) and for made-up sharded pairs in bfloat16, the last of
more than a billion parameters. (b) runs once, and only where its 31 bytes per parameter fit: both
models, the scores, and what `topk` keeps, a value and a position of each and of the chosen.

    python benchmarks/restore.py FOLDER --prepare    # writes the models, 8 GB
    python benchmarks/restore.py FOLDER

Writes `results/smollm2-135m/benchmarks/restore.json`, which the book quotes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import torch
from common import alternate, ratio, save
from safetensors.torch import save_file

from repro.restoration import checkpoints, regions, restore, tensor_pairs

PERCENTS = [1.0, 3.0, 5.0, 10.0, 20.0, 40.0, 60.0]
HIDDEN, INNER, HEADS = 2048, 8192, 512
STEPS = 12
IN_MEMORY = 31  # bytes per parameter


def ours(base: Path, tuned: Path) -> list[float]:
    """(a) Return the share of the change held by each share of the parameters."""
    pair = checkpoints.Checkpoint(base), checkpoints.Checkpoint(tuned)
    ranking = restore.rank(*pair, expected_percents=PERCENTS)
    return restore.concentration(ranking, PERCENTS)["share_of_change_percent"].tolist()


def in_memory(base: Path, tuned: Path) -> list[float]:
    """(b) Return the same, from one flat vector of scores, a `topk` for every share."""
    first, second = (
        {name: tensor.clone() for name, tensor in checkpoints.Checkpoint(folder).items()}
        for folder in (base, tuned)
    )
    names = regions.tensors_in(first)
    parts = [(second[n].float() - first[n].float()).abs() / (first[n].float().abs() + 1e-8)
             for n in names]  # fmt: skip
    scores = torch.cat([part.flatten() for part in parts])
    del parts
    total, shares = scores.sum(dtype=torch.float64), []
    for percent in PERCENTS:
        values, places = torch.topk(scores, restore.how_many(len(scores), percent))
        mask = torch.zeros(len(scores), dtype=torch.bool)
        mask[places] = True
        shares.append(float(100 * values.sum(dtype=torch.float64) / total))
    return shares


def floor(base: Path, tuned: Path) -> list[float]:
    """(c) Sum every tensor that is ranked."""
    pair = [checkpoints.Checkpoint(folder) for folder in (base, tuned)]
    return [float(weights[name].sum()) for weights in pair for name in regions.tensors_in(weights)]


WAYS = {"ours": ours, "in_memory": in_memory, "floor": floor}


def memory(field: str) -> int:
    """Return bytes of this process, from the kernel: RssAnon is without mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))


def child(way: str, base: Path, tuned: Path) -> None:
    """Time one way in this process, after a warm-up on nothing, and print what came out."""
    if way == "ours":
        ours_on_nothing()
    idle, start = memory("RssAnon"), time.perf_counter()
    watched = Peak()
    with watched:
        shares = WAYS[way](base, tuned)
    seconds = time.perf_counter() - start
    report = {"seconds": seconds, "shares": shares, "idle": idle, "peak": watched.peak}
    print(json.dumps(report))


class Peak:
    """The largest RssAnon of this process, looked at a hundred times a second."""

    def __enter__(self):
        """Begin to look."""
        self.peak, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, memory("RssAnon"))

    def __exit__(self, *error) -> None:
        """Stop."""
        self.done.set()
        self.thread.join()


def ours_on_nothing() -> None:
    """Load the compiled loops, which takes a second once per process and type."""
    for kind in (torch.float32, torch.bfloat16):
        base = {"layers.w": torch.ones(8, dtype=kind)}
        restore.concentration(restore.rank(base, {"layers.w": base["layers.w"] + 1 / 3}), PERCENTS)


def compare(base: Path, tuned: Path, repeats: int) -> dict:
    """Run the ways in turn and return seconds, ratios and memory."""
    weights = checkpoints.Checkpoint(base)
    shapes = {name: weights[name].shape for name in regions.tensors_in(weights)}
    parameters = sum(shape.numel() for shape in shapes.values())
    fits = IN_MEMORY * parameters < 0.7 * psutil.virtual_memory().available
    reports_by_way: dict[str, list[dict]] = {way: [] for way in WAYS}

    def run(way: str) -> None:
        command = [sys.executable, __file__, str(tuned), "--child", way, str(base)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        reports_by_way[way].append(json.loads(done.stdout))

    run("ours")  # the first to read the files from the disk
    reports_by_way["ours"].clear()
    if fits:
        run("in_memory")
    alternate({way: lambda way=way: run(way) for way in ("ours", "floor")}, repeats)
    seconds = {
        way: [round(t["seconds"], 3) for t in reports] for way, reports in reports_by_way.items()
    }
    if fits:
        pairs = zip(
            reports_by_way["ours"][0]["shares"],
            reports_by_way["in_memory"][0]["shares"],
            strict=True,
        )
        assert all(abs(a - b) < 1e-6 for a, b in pairs), "the two ways disagree"
    return {
        "parameters": parameters,
        "largest_tensor": max(shape.numel() for shape in shapes.values()),
        "dtype": str(weights[next(iter(shapes))].dtype).removeprefix("torch."),
        "shards": len(weights.files),
        "seconds": seconds,
        "times_faster_than_in_memory": seconds["in_memory"][0] / statistics.median(seconds["ours"])
        if fits
        else None,
        "times_the_floor": ratio(seconds["ours"], seconds["floor"]),
        "peak_bytes": {
            way: max((t["peak"] for t in reports), default=None)
            for way, reports in reports_by_way.items()
        },
        "idle_bytes": {
            way: max((t["idle"] for t in reports), default=None)
            for way, reports in reports_by_way.items()
        },
    }


def finetuned(folder: Path) -> tuple[Path, Path]:
    """Return SmolLM2's folder, and one of it fine-tuned for a few steps."""
    from repro.data import facts
    from repro.models import loading, registry, weights
    from repro.training import sft  # not above: a timed process holds what it needs only
    from repro.training.recipe import Recipe

    base, tuned = weights.locate(registry.entry("smollm2-135m")), folder / "smollm2-tuned"
    if tuned.exists():
        return base, tuned
    network, tokenizer = loading.load_model("smollm2-135m")
    loaded = facts.load()
    few = facts.sample(loaded[loaded["split"] == "train"], 8 * STEPS, 0)
    sft.finetune(network, tokenizer, few, Recipe(learning_rate=1e-4))
    network.save_pretrained(tuned)
    return base, tuned


def made_up(folder: Path, layers: int) -> tuple[Path, Path]:
    """Write a pair of so many layers in bfloat16, a shard for each; weights move by about 1 %."""
    shapes = {"q_proj": (HIDDEN, HIDDEN), "k_proj": (HEADS, HIDDEN), "v_proj": (HEADS, HIDDEN),
              "o_proj": (HIDDEN, HIDDEN), "gate_proj": (INNER, HIDDEN),
              "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}  # fmt: skip
    pair = folder / f"base-{layers}", folder / f"tuned-{layers}"
    if all(path.exists() for path in pair):
        return pair
    for path in pair:
        path.mkdir()
    generator = torch.Generator().manual_seed(layers)
    for layer in range(layers):
        first, second = {}, {}
        for part, shape in shapes.items():
            block = "mlp" if shape[0] == INNER or shape[1] == INNER else "self_attn"
            name = f"model.layers.{layer}.{block}.{part}.weight"
            weights = 0.02 * torch.randn(shape, generator=generator)
            change = 0.01 * torch.randn(shape, generator=generator)
            first[name] = weights.bfloat16()
            second[name] = (weights * (1 + change)).bfloat16()
        for path, shard in zip(pair, (first, second), strict=True):
            save_file(shard, path / f"model-{layer:05d}.safetensors", {"format": "pt"})
    return pair


def main() -> None:
    """Compare the ways at every size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the models are written")
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 9, 18])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prepare", action="store_true", help="write the models, and stop")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "BASE"), help="one way, on FOLDER")
    options = parser.parse_args()
    if options.child:
        return child(options.child[0], Path(options.child[1]), options.folder)
    options.folder.mkdir(exist_ok=True)
    pairs = {"smollm2-135m": finetuned(options.folder)}
    pairs |= {f"made-up-{layers}": made_up(options.folder, layers) for layers in options.layers}
    if options.prepare:
        return
    comparisons = {name: compare(*pair, options.repeats) for name, pair in pairs.items()}
    about = {
        "percents": PERCENTS,
        "block": tensor_pairs.BLOCK_SIZE,
        "threads": torch.get_num_threads(),
    }
    save("smollm2-135m", "restore", {**about, "steps": STEPS, "pairs": comparisons})


if __name__ == "__main__":
    main()
