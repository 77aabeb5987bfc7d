"""Processes of one thread each that share the study of a small model.

A second thread makes a small model hardly faster, but a second process nearly doubles the speed.
Each worker loads the model itself and sends its results to the process that started it. Only this
process writes. A worker has no terminal and ends when its connection is closed, so an interrupt
reaches only the process that started it.
"""

import gc
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from threading import Thread

from repro.errors import ReproError

JOBS_EACH = 8  # fewest jobs for a worker, because its start takes as long as a few jobs
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def how_many(jobs: int) -> int:
    """Return how many workers should share some jobs; 1: do not start any."""
    if os.name != "posix":
        return 1
    return max(1, min(cores(), jobs // JOBS_EACH))


def cores() -> int:
    """Return the number of cores that this process may use."""
    can_ask = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if can_ask else os.cpu_count() or 1


@contextmanager
def started(number: int, factory: Callable[[], object]) -> Iterator["Workers"]:
    """Start workers, and end them on exit.

    Each worker calls `factory`, which must be picklable, and then methods of the object that it
    returns, which the jobs of `spread` name.
    """
    workers = Workers()
    try:
        for _ in range(number):
            workers.start()
        for connection in workers.processes:
            workers.send(connection, factory)
        yield workers
    finally:
        workers.end()


class Workers:
    """The worker processes, each with the connection to it."""

    def __init__(self):
        """Start no process yet."""
        self.processes: dict[Connection, subprocess.Popen] = {}

    def start(self) -> None:
        """Start one more process."""
        ours, theirs = Pipe()
        self.processes[ours] = subprocess.Popen(
            [sys.executable, "-m", "repro.study.workers", str(theirs.fileno())],
            env=os.environ | ONE_THREAD,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()

    def spread(self, jobs: Iterable[tuple]) -> Iterator[tuple[int, object]]:
        """Give each job, (method, *arguments), to a worker as soon as one is free.

        Yields (number of the job, value) for each value that the method yields, in the order in
        which values arrive.

        Raises:
            ReproError: a worker raised it, or has died.
        """
        numbered, idle, busy = enumerate(jobs), list(self.processes), {}
        while True:
            while idle and (job := next(numbered, None)):
                busy[connection := idle.pop()] = job[0]
                self.send(connection, job[1])
            if not busy:
                return
            for connection in wait(list(busy)):
                message = self._received(connection)
                if message is None:  # the job is done
                    idle.append(connection)
                    del busy[connection]
                else:
                    yield busy[connection], message[0]

    def send(self, connection: Connection, message: object) -> None:
        """Send a message to a worker.

        Raises:
            ReproError: the worker has died.
        """
        try:
            connection.send(message)
        except OSError as error:
            raise self._died(connection) from error

    def _received(self, connection: Connection) -> tuple | None:
        try:
            message = connection.recv()
        except (EOFError, OSError) as error:
            raise self._died(connection) from error
        if isinstance(message, Exception):
            raise message
        return message

    def _died(self, connection: Connection) -> ReproError:
        status = self.processes[connection].wait()
        return ReproError(
            f"a worker process ended with status {status}, perhaps for want of memory: run again,"
            " or with --workers 1"
        )

    def end(self) -> None:
        """End all processes, even in the middle of a job."""
        for connection, process in self.processes.items():
            process.terminate()
            connection.close()
        for process in self.processes.values():
            process.wait()


def work(connection: Connection) -> None:
    """Do jobs, one after another, until the connection is closed."""
    Thread(target=_end_with, args=[connection.fileno()], daemon=True).start()
    factory = connection.recv()
    receiver = factory()
    gc.freeze()  # the loaded objects stay, so the garbage collector need not visit them
    while True:
        method, *arguments = connection.recv()
        for value in getattr(receiver, method)(*arguments):
            connection.send((value,))
        connection.send(None)


def _end_with(connection: int) -> None:
    """End this process as soon as a connection is closed, even in the middle of a job.

    Otherwise it would notice only when it sends the next value, and until then a new start of the
    study would share the machine with it.
    """
    poll = select.poll()
    poll.register(connection, 0)  # with no event to wait for: a closed connection is reported
    poll.poll()
    os._exit(0)


def main() -> None:
    """Work for the process at the other end of the connection that the command line names."""
    connection = Connection(int(sys.argv[1]))
    try:
        work(connection)
    except (EOFError, ConnectionError):  # nobody is waiting any more
        pass
    except ReproError as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))


if __name__ == "__main__":
    main()
