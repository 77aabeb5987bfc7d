"""Fine-tuning: `repro.training.sft.finetune` against TRL's `SFTTrainer`, side by side.

Both train the same examples in the same batches with the same loss (answer tokens and EOS),
AdamW, clipping and cosine, from the same weights. TRL is given the tokens ready-made; it keeps
its default padding (to the longest of a batch) and logs and saves nothing.

    pip install -e '.[benchmarks]'
    python benchmarks/finetuning.py [MODEL] [--steps N] [--repeats N]

Writes `results/MODEL/benchmarks/finetuning.PROCESSOR.json`, which the book quotes.
"""

import argparse
import copy
import gc
import itertools
import math
import statistics
import tempfile
import time
from importlib import metadata
from itertools import pairwise

import torch
from common import alternate, multiplied, ratio, reader, save
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from repro.data import facts
from repro.inference import allocator
from repro.models import loading, registry
from repro.restoration import restore
from repro.training import sft
from repro.training.prompts import IGNORED, encode_examples
from repro.training.recipe import Recipe

try:
    from datasets import Dataset, disable_progress_bars
    from trl import SFTConfig, SFTTrainer
except ImportError:
    raise SystemExit("this benchmark compares with TRL: pip install -e '.[benchmarks]'") from None

# TRL's output head adds its products in place, which PyTorch's counter leaves out.
IN_PLACE = {torch.ops.aten.addmm_: lambda _, one, other, **__: 2 * math.prod(one) * other[1]}


class Clock(TrainerCallback):
    """When each step of TRL ended."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *_, **__):
        self.ends.append(time.perf_counter())


class Watched(SFTTrainer):
    """TRL's trainer, which leaves the loss of each step behind."""

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.watched.append(loss.detach())
        return loss


def config(network, recipe: Recipe, dtype: torch.dtype, folder: str) -> SFTConfig:
    """Return TRL's settings for what `finetune` does by itself."""
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=recipe.batch_size,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        bf16=dtype is torch.bfloat16,
        use_cpu=network.device.type == "cpu",
        completion_only_loss=True,
        max_length=None,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def drawn(chosen, recipe: Recipe):
    """Return the facts in the order in which `finetune` draws them."""
    order = torch.Generator().manual_seed(recipe.seed)
    loader = DataLoader(
        range(len(chosen)), recipe.batch_size, shuffle=True, generator=order, collate_fn=list
    )
    return chosen.iloc[list(itertools.chain(*loader))]


def columns(tokenizer, chosen) -> Dataset:
    """Return the tokens of `finetune`'s examples in the form that TRL reads."""
    examples = encode_examples(tokenizer, chosen["question"], chosen["object"])
    masks = [[int(label != IGNORED) for label in labels] for _, labels in examples]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in examples], "completion_mask": masks})


class Race:
    """Both ways to train one model in one dtype, each from the same weights every time."""

    def __init__(self, network, tokenizer, chosen, recipe, dtype, folder):
        self.network, self.copy = network, copy.deepcopy(network)
        self.reader = reader(network, dtype)
        self.base, self.own = restore.snapshot(network), set(vars(network))
        self.given = tokenizer, chosen, recipe
        self.dtype, self.losses, self.ends = dtype, {}, {}
        self.rows = columns(tokenizer, drawn(chosen, recipe))
        self.settings = config(network, recipe, dtype, folder)
        self.ways = {"trl": self.trl, "repro": self.repro}

    def ready(self) -> None:
        """Bring the weights back and let TRL prepare its data and its model: not timed."""
        self.trainer = None
        gc.collect()  # the optimizers of the last runs
        allocator.keep_pages(False)  # TRL runs as it does by itself; `finetune` turns this on
        for name in vars(self.copy).keys() - self.own:
            delattr(self.copy, name)  # what TRL and accelerate put on it, to be put there again
        for network in (self.network, self.copy):
            restore.write(network, self.base)
        trainer = Watched(
            self.copy,
            self.settings,
            train_dataset=self.rows,
            processing_class=self.given[0],
            callbacks=[clock := Clock()],
        )
        self.trainer, trainer.watched, self.ends = trainer, [], {"trl": clock.ends, "repro": []}

    def trl(self) -> None:
        self.trainer.train()
        self.losses["trl"] = [loss.item() for loss in self.trainer.watched]

    def repro(self) -> None:
        ends = self.ends["repro"]
        done = sft.finetune(
            self.reader,
            *self.given,
            progress=lambda _: ends.append(time.perf_counter()),
            dtype=self.dtype,
        )
        self.losses["repro"] = done["loss"]

    def run(self, repeats: int) -> dict:
        """Return the seconds of each way, the loss curves, and how they compare.

        A step's seconds are the median over a run, from the end of one step to the next's end:
        without the first step, in which memory is touched for the first time.
        """
        runs, steps = ({name: [] for name in self.ways} for _ in range(2))
        for repeat in range(repeats + 1):
            self.ready()
            taken = alternate(self.ways, 1)
            if repeat:  # the first one warms up what a process does once
                for name, ends in self.ends.items():
                    runs[name] += taken[name]
                    steps[name].append(statistics.median(b - a for a, b in pairwise(ends)))
        losses, batch = dict(self.losses), self.given[2].batch_size  # before `floor` trains again
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "engine": type(self.reader).__name__,
            "samples_per_second": {
                name: round(batch / statistics.median(s), 2) for name, s in steps.items()
            },
            "ratio": round(ratio(steps["trl"], steps["repro"]), 2),
            "ratio_of_runs": round(ratio(runs["trl"], runs["repro"]), 2),
            "step_seconds": rounded(steps),
            "run_seconds": rounded(runs),
            "floor_seconds": self.floor(),
            "loss": rounded(losses, 5),
        }

    def floor(self) -> dict[str, float]:
        """Return, by way, the seconds a step's matrix products take at the pace of one alone."""
        self.ready()
        seconds_by_format = {}
        for name, way in self.ways.items():
            with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
                way()
            per_step = counter.get_total_flops() / len(self.ends[name])
            seconds_by_format[name] = round(per_step / pace(self.network, self.dtype), 3)
        return seconds_by_format


def pace(network, dtype: torch.dtype, tokens: int = 192, times: int = 50) -> float:
    """Return the multiply-adds a second, counted as two, of the network's widest layer."""
    layers = (m for n, m in network.named_modules() if "layers" in n)
    widest = max(
        (m.weight for m in layers if isinstance(m, torch.nn.Linear)), key=torch.Tensor.numel
    )
    taken = []
    for kind in multiplied(dtype):
        weight = widest.detach().to(kind)
        rows = torch.ones(tokens, weight.shape[1], dtype=kind, device=weight.device)
        once = alternate({"product": lambda r=rows, w=weight: (r @ w.T).sum().item()}, times)
        taken.append(statistics.median(once["product"]))
    return 2 * tokens * widest.numel() / min(taken)


def rounded(series: dict[str, list[float]], digits: int = 3) -> dict[str, list[float]]:
    return {name: [round(x, digits) for x in values] for name, values in series.items()}


def main() -> None:
    """Race in float32 and in bfloat16, and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=16, help="of 8 samples each (default: 16)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs (default: 3)")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    disable_progress_bars()
    loaded = facts.load()
    recipe = Recipe(learning_rate=registry.entry(options.model).learning_rate)
    size = options.steps * recipe.batch_size
    chosen = facts.sample(loaded[loaded["split"] == "train"], size, 0)
    network, tokenizer = loading.load_model(options.model)
    base, runs = restore.snapshot(network), []
    for dtype in options.dtypes:
        restore.write(network, base)
        with tempfile.TemporaryDirectory() as folder:
            race = Race(network, tokenizer, chosen, recipe, getattr(torch, dtype), folder)
            runs.append(race.run(options.repeats))
    record = {
        "model": options.model,
        "batch": recipe.batch_size,
        "steps": options.steps,
        "repeats": options.repeats,
        "learning_rate": recipe.learning_rate,
        "tokens": sum(map(len, race.rows["input_ids"])),
        "threads": torch.get_num_threads(),
        "trl": metadata.version("trl"),
        "runs": runs,
    }
    save(options.model, "finetuning", record, by_processor=True)


if __name__ == "__main__":
    main()
