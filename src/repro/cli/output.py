"""Standard output and standard error of the `repro` command."""

import os
import sys
from contextlib import suppress

from repro.errors import ReproError


class OutputError(ReproError):
    """Standard output cannot be written."""


def say(*lines: object) -> None:
    """Print lines and flush them, so that the command ends here if they cannot be written.

    Raises:
        BrokenPipeError: whoever read the output has closed it.
        OutputError: the output cannot be written for another reason, such as a full disk.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise OutputError(f"cannot write standard output: {error.strerror}") from None


def complain(text: str, status: int) -> int:
    """Print an error in one line on standard error; return the exit status it is given."""
    with suppress(OSError):
        print(f"repro: {text}", file=sys.stderr)
    return status


def discard_output() -> None:
    """Send what is left of standard output to the null device.

    Python writes the rest of the output when it ends, and would report the same error again.
    """
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def escape_unknown_characters() -> None:
    """Print characters that the terminal's encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
