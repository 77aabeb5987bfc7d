"""Computes the missing records of `repro.study.task_study`, loading the model once (§5.2, Table 5).

Each task is fine-tuned and ranked once; one ranking serves all its shares. A record is on disk as
soon as it is finished. To go on with a task that was interrupted, its model is trained again.
"""

import time
from contextlib import nullcontext
from itertools import groupby

from repro.data import task_examples
from repro.inference.decoding import Prompt
from repro.measures import accuracy
from repro.measures.task_scores import score
from repro.restoration import restore
from repro.study.requests import REGION, Request
from repro.study.session import Bench
from repro.study.task_study import TITLES, Trial
from repro.training import sft
from repro.training.prompts import encode_prompts
from repro.training.recipe import Recipe


def compute(trial: Trial, tasks: list[Request]) -> None:
    """Compute and store tasks, with progress bars; under `accelerate launch` processes share them.

    Raises:
        ReproError: the examples, the model or the cache folder cannot be used.
    """
    bench = TaskBench(trial)
    with bench.processes.main_process_first():  # it converts the weights, once for all
        bench.network  # noqa: B018 - what cannot be read is said before a bar is drawn
    bench.processes.wait_for_everyone()  # none may write before all have looked
    with bench.bar(len(tasks), f"{trial.model.name} {trial.profile.name}", "rec", True) as bar:
        for name, group in groupby(tasks, key=lambda task: task.params["task"]):
            bar.set_postfix_str(TITLES[name])
            bench.finetune(name)
            for task in group:
                bench.record(task)
                bar.update()


class TaskBench(Bench):
    """What a trial's model does with one task after another."""

    def __init__(self, trial: Trial):
        """Take a trial that has examples."""
        super().__init__(trial.model, trial.profile.name)
        self.trial = trial

    def finetune(self, name: str) -> None:
        """Fine-tune on a task, rank its parameters, and make its test questions prompts."""
        network, tokenizer, examples = self.network, self.tokenizer, self.trial.examples(name)
        recipe = Recipe(**self.trial.finetune_task(name).params["recipe"])
        restore.write(network, self.base)
        train, shortened = self.shortened(name, examples.train)
        with self.steps(-(-len(train) // recipe.batch_size), f"training {name}") as show:
            self.trained = sft.finetune(network, tokenizer, train, recipe, show)
        about = {"skipped": examples.skipped, "divided": examples.divided, "shortened": shortened}
        self.trained |= about | {"examples": len(train)}
        self.tuned = restore.snapshot(network)
        restore.write(self.decoder, self.tuned)
        self.ranking = restore.rank(self.base, self.tuned, REGION)
        self.cuts = restore.thresholds(self.ranking, self.trial.profile.tasks["percents"])
        self.test, _ = self.shortened(name, examples.test)
        self.prompts = [Prompt(ids) for ids in encode_prompts(tokenizer, self.test["question"])]

    def shortened(self, name: str, examples) -> tuple:
        """Return examples with the question cut to the profile's tokens, and how many were."""
        limit = self.trial.profile.tasks[name].get("document_tokens")
        if limit is None:
            return examples, 0
        texts = task_examples.shorten(self.tokenizer, examples["question"], limit)
        return examples.assign(question=texts), int((examples["question"] != texts).sum())

    def record(self, task: Request) -> None:
        """Compute one record and write it."""
        start = time.perf_counter()
        result = self.trained if task.kind == "task_finetune" else self.score(task)
        self.save(task, result, round(result.get("seconds", time.perf_counter() - start), 3))

    def score(self, task: Request) -> dict:
        """Restore a share, answer the test questions greedily, and score the answers."""
        name, limit = task.params["task"], task.params["new_tokens"]
        with self._restored(task.params["restore"]) as undone:
            share = (task.params["restore"] or {"percent": 0})["percent"]
            with self.bar(len(self.test), f"{name}, {share:g} % restored", "answer") as bar:
                options = {"max_new_tokens": limit, "progress": bar.update}
                done = accuracy.answer(self.decoder, self.tokenizer, self.prompts, **options)
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
