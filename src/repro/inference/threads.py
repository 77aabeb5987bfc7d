"""Threads that share batches which a model computes side by side."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from repro.inference.cpu.cpu_engine import CpuEngine


def thread_count(engine: CpuEngine | None) -> int:
    """Return how many threads to give a batch each.

    What `cpu_engine` does beside the products takes one thread, so batches side by side leave no
    core idle. A small model has a process for each core instead.
    """
    return torch.get_num_threads() if engine and not engine.small else 1


def map_in_threads(number: int, work: Callable, jobs: Iterable) -> Iterator:
    """Yield what `work` makes of each job, in order; threads share the jobs and the cores."""
    if number == 1:
        yield from map(work, jobs)
        return
    pool = ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, jobs)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(number)  # a thread's own, but what later threads begin with
