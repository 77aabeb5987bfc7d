"""Computes the missing records of `repro.tasks`, loading the model once (§5.2, Table 5).

Each task is fine-tuned and ranked once; one ranking serves all its shares. A record is on disk as
soon as it is finished. To go on with a task that was interrupted, its model is trained again.
"""

import time
from contextlib import nullcontext
from functools import cached_property
from itertools import groupby

import torch
from tqdm import tqdm

from repro import evaluate, models, restore, sft, store, task_data
from repro.decoding import Prompt
from repro.study import REGION, Task
from repro.task_scores import score
from repro.tasks import TITLES, Trial


def compute(trial: Trial, tasks: list[Task]) -> None:
    """Compute and store tasks, with progress bars; under `accelerate launch` processes share them.

    Raises:
        ReproError: the examples, the model or the cache folder cannot be used.
    """
    bench = Bench(trial)
    with bench.processes.main_process_first():  # it converts the weights, once for all
        bench.loaded  # noqa: B018 - what cannot be read is said before a bar is drawn
    bench.processes.wait_for_everyone()  # none may write before all have looked
    with bench.bar(len(tasks), f"{trial.model.name} {trial.profile.name}", "rec", True) as bar:
        for name, group in groupby(tasks, key=lambda task: task.params["task"]):
            bar.set_postfix_str(TITLES[name])
            bench.finetune(name)
            for task in group:
                bench.save(task)
                bar.update()


class Bench:
    """A model in memory: float32 weights to train, and a copy in the fastest dtype to decode."""

    def __init__(self, trial: Trial):
        """Take a trial that has examples; the weights are loaded on first use."""
        self.trial, self.processes = trial, models.processes()

    def bar(self, total: int, text: str, unit: str, leave: bool = False) -> tqdm:
        """Return a progress bar, shown by the first process only."""
        silent = not self.processes.is_main_process
        return tqdm(total=total, desc=text, unit=unit, leave=leave, disable=silent)

    @cached_property
    def loaded(self):
        """The float32 network that is trained, and its tokenizer."""
        return models.load(self.trial.model)

    @cached_property
    def decoder(self):
        """The network that answers: the trained one itself where float32 is fastest."""
        dtype = models.inference_dtype(self.loaded[0].device)
        return self.loaded[0] if dtype is torch.float32 else models.load(self.trial.model, dtype)[0]

    @cached_property
    def base(self) -> dict[str, torch.Tensor]:
        """The weights before fine-tuning."""
        return restore.snapshot(self.loaded[0])

    def finetune(self, name: str) -> None:
        """Fine-tune on a task, rank its parameters, and make its test questions prompts."""
        (network, tokenizer), examples = self.loaded, self.trial.examples(name)
        recipe = sft.Recipe(**self.trial.finetune_task(name).params["recipe"])
        restore.write(network, self.base)
        train, shortened = self.shortened(name, examples.train)
        with self.bar(-(-len(train) // recipe.batch_size), f"training {name}", "step") as bar:

            def show(loss: float) -> None:
                bar.set_postfix_str(f"loss {loss:.3f}")
                bar.update()

            self.trained = sft.finetune(network, tokenizer, train, recipe, show)
        about = {"skipped": examples.skipped, "divided": examples.divided, "shortened": shortened}
        self.trained |= about | {"examples": len(train)}
        self.tuned = restore.snapshot(network)
        restore.write(self.decoder, self.tuned)
        self.ranking = restore.rank(self.base, self.tuned, REGION)
        self.cuts = restore.thresholds(self.ranking, self.trial.profile.tasks["percents"])
        self.test, _ = self.shortened(name, examples.test)
        self.prompts = [Prompt(ids) for ids in sft.prompts(tokenizer, self.test["question"])]

    def shortened(self, name: str, examples) -> tuple:
        """Return examples with the question cut to the profile's tokens, and how many were."""
        limit = self.trial.profile.tasks[name].get("document_tokens")
        if limit is None:
            return examples, 0
        texts = task_data.shorten(self.loaded[1], examples["question"], limit)
        return examples.assign(question=texts), int((examples["question"] != texts).sum())

    def save(self, task: Task) -> None:
        """Compute one record and write it."""
        start = time.perf_counter()
        result = self.trained if task.kind == "task_finetune" else self.score(task)
        where = store.provenance(
            wall_seconds=round(result.get("seconds", time.perf_counter() - start), 3),
            model=self.trial.model.name,
            profile=self.trial.profile.name,
            device=str(self.loaded[0].device),
            processes=self.processes.num_processes,
            dtype=str(self.decoder.dtype).removeprefix("torch."),
        )
        key = store.key(task.kind, task.params)
        if self.processes.is_main_process:
            store.save(store.Record(task.kind, key, task.params, result, where))
        self.processes.wait_for_everyone()

    def score(self, task: Task) -> dict:
        """Restore a share, answer the test questions greedily, and score the answers."""
        name, limit = task.params["task"], task.params["new_tokens"]
        with self._restored(task.params["restore"]) as undone:
            share = (task.params["restore"] or {"percent": 0})["percent"]
            with self.bar(len(self.test), f"{name}, {share:g} % restored", "answer") as bar:
                options = {"max_new_tokens": limit, "progress": bar.update}
                done = evaluate.answer(self.decoder, self.loaded[1], self.prompts, **options)
        scores = score(name, [c.text for c in done], self.test["object"].tolist())
        return {
            "restored": undone.k,
            "total": len(self.test),
            "values": scores.values,
            "blank": scores.blank,
            "cut": sum(len(c.ids) == limit for c in done),
            "tokens": sum(len(c.ids) for c in done),
        }

    def _restored(self, settings: dict | None):
        if settings is None:
            return nullcontext(restore.Change())
        share = settings["percent"]
        weights = self.base, self.tuned
        return restore.restored(self.decoder, *weights, self.ranking, share, self.cuts[share])
