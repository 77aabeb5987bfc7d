"""Computes the missing records of `repro.study.task_study` (§5.2, Table 5).

The model is fine-tuned and ranked once for each task; all shares use the same ranking. After an
interruption, the model of the task is trained again.
"""

from dataclasses import dataclass

import pandas as pd

from repro.data import xsum
from repro.errors import ConfigError
from repro.inference.decoding import Prompt
from repro.measures import accuracy
from repro.measures.task_scores import score
from repro.models import launch
from repro.study import engines
from repro.study.computation import Computation
from repro.study.requests import Request
from repro.study.session import Session, TunedModel
from repro.study.task_results import TITLES
from repro.training.prompts import encode_prompts
from repro.training.recipe import Recipe


@dataclass(frozen=True)
class TaskState:
    """A model fine-tuned on a task, and the questions that test it."""

    training: dict  # the result of the record of the fine-tuning
    tuned: TunedModel
    test: pd.DataFrame
    prompts: list[Prompt]


class TaskComputation(Computation):
    """Computes the records of a `TaskStudy`."""

    def __init__(self, study):
        """Take a `repro.study.task_study.TaskStudy` that has examples.

        Its long answers are decoded by transformers, because committed records were computed so and
        the CPU engine would round differently.

        Raises:
            ConfigError: the launch divides the model, which is not possible here.
        """
        if launch.sharding():
            raise ConfigError(
                "GSM8K and XSum are not trained on a model that FSDP divides: launch with"
                " --multi_gpu alone"
            )
        session = Session(study.model, study.number_format.name, engine=engines.TRANSFORMERS)
        super().__init__(session, study.profile.name)
        self.study = study

    def describe(self, request: Request) -> str:
        """Return the text of the progress bar for a request."""
        return TITLES[request.run]

    def claim_name(self, group: list[Request]) -> str:
        """Return the name of the lock: the key of the fine-tuning."""
        return self.study.finetune_request(group[0].run).key

    def prepare(self, run: str, requests: list[Request]) -> TaskState:
        """Fine-tune on the task named `run`, and make prompts of its test questions."""
        examples = self.study.examples(run)
        recipe = Recipe(**self.study.finetune_request(run).params["recipe"])
        train, shortened = self.shortened(run, examples.train)
        training, tuned = self.session.finetune(train, recipe, f"training {run}")
        about = {"skipped": examples.skipped, "divided": examples.divided, "shortened": shortened}
        test, _ = self.shortened(run, examples.test)
        prompts = encode_prompts(self.session.tokenizer, test["question"])
        return TaskState(
            training | about | {"examples": len(train)},
            self.session.compare(tuned, self.study.profile.tasks["percents"]),
            test,
            [Prompt(ids) for ids in prompts],
        )

    def shortened(self, task: str, examples: pd.DataFrame) -> tuple[pd.DataFrame, int]:
        """Return examples with shortened questions, and the number of shortened ones."""
        limit = self.study.profile.tasks[task].get("document_tokens")
        if limit is None:
            return examples, 0
        texts = xsum.shorten(self.session.tokenizer, examples["question"], limit)
        return examples.assign(question=texts), int((examples["question"] != texts).sum())


def _finetune(_: TaskComputation, state: TaskState, __: Request) -> tuple[dict, None]:
    """Report the training that `prepare` did."""
    return state.training, None


def _score(work: TaskComputation, state: TaskState, request: Request) -> tuple[dict, None]:
    """Restore a share, answer the test questions greedily, and score the answers."""
    task, limit = request.params["task"], request.params["new_tokens"]
    settings, session = request.params["restore"], work.session
    share = settings["percent"] if settings else 0
    with (
        state.tuned.restored(session.decoder, settings) as undone,
        session.bar(len(state.test), f"{task}, {share:g} % restored", "answer") as bar,
    ):
        options = {"max_new_tokens": limit, "progress": bar.update}
        answers = accuracy.answer(session.reader, session.tokenizer, state.prompts, **options)
    scores = score(task, [answer.text for answer in answers], state.test["object"].tolist())
    result = {
        "restored": undone.k,
        "total": len(state.test),
        "values": scores.values,
        "blank": scores.blank,
        "cut": sum(len(answer.ids) == limit for answer in answers),
        "tokens": sum(len(answer.ids) for answer in answers),
    }
    return result, None


TaskComputation.kinds = {"task_finetune": _finetune, "task_score": _score}
