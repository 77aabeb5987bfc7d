"""Ctrl-C and SIGTERM end a command in the same way: with an exception that `main` catches."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM was received. It ends a command as Ctrl-C does, with another exit status."""


class Signals:
    """Raises for Ctrl-C and SIGTERM, and remembers that one of them was `received`.

    The exception may not arrive: a library in C that runs Python code, such as a conversion of
    tensors, can replace it with an error of its own. What is remembered says why the command ended.
    """

    received: KeyboardInterrupt | None = None

    def handle(self, number: int, _frame: Any) -> NoReturn:
        """Raise KeyboardInterrupt, or Terminated for SIGTERM; for an alarm what was received."""
        if number == signal.SIGTERM:
            self.received = Terminated()
        elif self.received is None:
            self.received = KeyboardInterrupt()
        raise self.received

    def raise_again(self, unraisable: Any) -> None:
        """Repeat an interrupt that Python has dropped.

        Python cannot raise an exception inside a destructor, such as that of a progress bar. It
        passes the exception to this hook, and the study would go on. So a timer raises it again a
        moment later, outside the destructor.
        """
        if issubclass(unraisable.exc_type, KeyboardInterrupt) and hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self.handle)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            sys.__unraisablehook__(unraisable)


@contextmanager
def signals_raise() -> Iterator[Signals]:
    """Within the block, Ctrl-C raises KeyboardInterrupt and SIGTERM raises Terminated."""
    signals = Signals()
    hook_before, sys.unraisablehook = sys.unraisablehook, signals.raise_again
    # Ctrl-C may be ignored, as in a job that a shell started in the background: leave that alone.
    ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    numbers = [signal.SIGTERM, *([signal.SIGINT] if ctrl_c else [])]
    handlers_before = {number: _set_handler(number, signals.handle) for number in numbers}
    try:
        yield signals
    finally:
        sys.unraisablehook = hook_before
        for number, handler in handlers_before.items():
            _set_handler(number, handler)


def _set_handler(number: int, handler: Any) -> Any:
    """Set what happens at a signal (None: the system's default); return what was set before."""
    try:
        return signal.signal(number, signal.SIG_DFL if handler is None else handler)
    except ValueError:  # only the main thread of a program may set a handler
        return None
