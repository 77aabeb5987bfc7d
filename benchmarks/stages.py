"""What the stages of a divided study take: bytes per parameter, steps and tokens a second.

It is the session of `repro run` under FSDP2: load, fine-tune, rank, restore, answer, sample.

    accelerate launch --use_fsdp --fsdp_version 2 --num_processes N benchmarks/stages.py MODEL
        [--facts 64] [--mastered 2] [--questions FILE] [--out FILE]

On a GPU the bytes are those that PyTorch has allocated, on a CPU the memory of the process that is
not a page of a mapped file. Writes `results/MODEL/benchmarks/stages.N.json`, or `--out`.
"""

import argparse
import json
import threading
import time
from pathlib import Path

import common
import pandas as pd
import torch

from repro import files
from repro.data import facts
from repro.errors import ConfigError
from repro.measures import accuracy, mastery
from repro.models import launch, registry
from repro.models.devices import processes
from repro.models.shards import part_of_process
from repro.study.sharded_session import ShardedSession
from repro.training.recipe import Recipe

SHARE = 20.0  # percent restored
PROTOCOL = mastery.Protocol()


class Peak:
    """The bytes in use when a block begins, and the most within it."""

    def __enter__(self) -> "Peak":
        """Begin to watch."""
        self.cuda = processes().device.type == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.before = self.most = self.now()
        self.start, self._stop = time.perf_counter(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()
        if self.cuda:
            self.most = torch.cuda.max_memory_allocated()
        self.seconds = time.perf_counter() - self.start

    def now(self) -> int:
        """Return the bytes in use."""
        if self.cuda:
            return torch.cuda.memory_allocated()
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("RssAnon:")[1].split()[0]) << 10

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, self.now())


def measure(session: ShardedSession, asked: pd.DataFrame, mastered: int) -> dict:
    """Return the bytes of each stage, whether restoring was undone bit for bit, and the pace."""
    torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64))  # finds its memory now
    with Peak() as load:
        session.load()
    network, found = load.now() - load.before, {"load": load.most - load.before}
    with Peak() as tuning:
        training, tuned = session.finetune(asked, Recipe(learning_rate=1e-4), "fine-tuning")
    # Its network that answers was given up before, and is there again.
    found |= {"network": network, "finetune": tuning.most - load.before}
    pair = session.compare(tuned, [SHARE])
    with Peak() as restoration:
        pair.ranking()
        with pair.restored(session.decoder, {"percent": SHARE, "strategy": "top"}) as undone:
            pass
    found |= {"restoration": restoration.most - restoration.before, "restored": undone.k}
    same = (holds(p, tuned[n]) for n, p in session.decoder.named_parameters())
    with Peak() as answering:
        answers = accuracy.answer(session.reader, session.tokenizer, asked)
    with Peak() as sampling:
        if mastered:
            mastery.measure(session.reader, session.tokenizer, asked[:mastered], PROTOCOL)
    tokens = mastered * PROTOCOL.trials * PROTOCOL.max_new_tokens
    return {
        **found,
        "undone": all(same),
        "answer": answering.most - answering.before,
        "answers_per_second": len(answers) / answering.seconds,
        "steps_per_second": training["steps"] / training["seconds"],
        "tokens_per_second": tokens / sampling.seconds,
    }


def holds(parameter: torch.nn.Parameter, values: torch.Tensor) -> bool:
    """Tell whether a parameter, or this process's part of it, has these values."""
    if hasattr(parameter, "to_local"):
        values, parameter = part_of_process(values, parameter), parameter.to_local()
    return torch.equal(parameter.cpu(), values.to(parameter.dtype))


def main() -> None:
    """Measure, and write a record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--facts", type=int, default=64, help="to train on and to ask")
    parser.add_argument("--mastered", type=int, default=2, help="facts of which mastery is timed")
    parser.add_argument("--questions", help="a JSON table of facts instead of the model's own")
    parser.add_argument("--dtype", default="bfloat16", help="number format of the study")
    parser.add_argument("--out", type=Path, help="the record, instead of one in results/")
    options = parser.parse_args()
    model, how = registry.entry(options.model), launch.sharding()
    if how is None:
        raise ConfigError("launch with accelerate launch --use_fsdp --fsdp_version 2")
    if options.questions:
        asked = pd.read_json(options.questions)
    else:
        known = facts.load(world=model.facts).query("split == 'train'")
        asked = facts.sample(known, options.facts, 0)
    session = ShardedSession(model, how, options.dtype, bars=False)
    record = measure(session, asked, options.mastered)
    number = sum(p.numel() for p in session.decoder.parameters())
    number_of = processes().num_processes
    record |= {"parameters": number, "processes": number_of, **vars(how)}
    if not processes().is_main_process:
        return
    if options.out:
        files.write_atomic(options.out, json.dumps(record))
    else:
        common.save(model.name, f"stages.{number_of}", record)


if __name__ == "__main__":
    main()
