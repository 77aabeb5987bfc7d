"""Ctrl-C and SIGTERM end a command in the same way: with an exception that `main` catches."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM was received. It ends a command as Ctrl-C does, with another exit status."""


@contextmanager
def signals_raise() -> Iterator[None]:
    """Within the block, Ctrl-C raises KeyboardInterrupt and SIGTERM raises Terminated."""
    hook_before, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    handler_before = _handle_sigterm(_raise_terminated)
    try:
        yield
    finally:
        sys.unraisablehook = hook_before
        _handle_sigterm(handler_before)


def _interrupt_again(unraisable: Any) -> None:
    """Repeat a Ctrl-C that Python has dropped.

    Python cannot raise an exception inside a destructor, such as that of a progress bar. It passes
    the exception to this hook, and the study would go on. So a timer interrupts again a moment
    later, outside the destructor.
    """
    if unraisable.exc_type is KeyboardInterrupt and hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(unraisable)


def _raise_terminated(*_: object) -> NoReturn:
    raise Terminated


def _handle_sigterm(handler: Any) -> Any:
    """Set what happens at SIGTERM (None: Python's default); return what was set before."""
    try:
        return signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)
    except ValueError:  # only the main thread of a program may set a handler
        return None
