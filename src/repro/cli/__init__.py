"""The `repro` command: models and facts, studies, and the restoration tool.

Each module of commands adds its commands to the application of `repro.cli.application`; `main` runs
the one that the command line names. Libraries that load slowly are imported inside the commands, so
that help appears at once.
"""

import os
import sys
from contextlib import suppress
from typing import Any

import typer

# Imported because each of them adds its commands to the application.
from repro.cli import facts_and_models, restoration_tool, studies  # noqa: F401
from repro.cli.application import app
from repro.cli.output import OutputError, complain, discard_output, escape_unknown_characters
from repro.cli.signals import Terminated, signals_raise
from repro.errors import ReproError

#: What an interrupted command leaves behind, and how to go on.
AFTER_INTERRUPT = {
    "run": "the same command goes on where it stopped",
    "tasks": "the same command goes on where it stopped",
    "restore": "nothing was written",
}
INTERRUPTED, TERMINATED, PIPE_CLOSED = 130, 143, 141  # 128 + the number of the signal


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        arguments: the words after `repro`; by default those of this process.

    Returns:
        0; 1 for an error that a user can mend, reported in one line; 2 for a wrong command line;
        130 after Ctrl-C, 143 after SIGTERM, 141 if whoever reads the output has closed it.
    """
    # Loading prints one bar per weight file; the study's own bars say more.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "_REPRO_COMPLETE" in os.environ:  # the shell asks for the completion of a word
        return app(prog_name="repro")
    escape_unknown_characters()
    words = sys.argv[1:] if arguments is None else arguments
    with signals_raise() as signals:
        try:
            return _invoke(words)
        except BaseException as error:
            return _report(signals.received or error, words)


def _invoke(words: list[str]) -> int:
    """Run the command that the words name; return 0, or the status that help or --version set."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("repro", list(words)) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    finally:
        if sys.stdout is not None:  # None: the shell has closed it
            sys.stdout.flush()
    return 0


def _report(error: BaseException, words: list[str]) -> int:
    """Print an error that ended a command in one line; return the exit status."""
    match error:
        case typer.TyperException():
            return _report_usage(error)
        case OutputError():
            return complain(str(error), 1)
        case ReproError():
            return complain(f"{type(error).__name__}: {error}", 1)
        case KeyboardInterrupt():
            return _report_interrupt(error, words)
        case BrokenPipeError():
            discard_output()
            return PIPE_CLOSED
        case OSError():
            discard_output()
            file = f"{error.filename}: " if error.filename else ""
            return complain(f"{type(error).__name__}: {file}{error.strerror or error}", 1)
    raise error


def _report_usage(error: Any) -> int:
    """Print how a command is used and what was wrong with it; return the exit status."""
    context = getattr(error, "ctx", None)
    with suppress(OSError):
        if context is not None:
            print(context.get_usage().replace("Usage:", "usage:", 1), file=sys.stderr)
        message = " ".join(error.format_message().split())
        print(f"{context.command_path if context else 'repro'}: {message}", file=sys.stderr)
    return error.exit_code


def _report_interrupt(error: KeyboardInterrupt, words: list[str]) -> int:
    """Print that a command was interrupted and how to go on; return the exit status."""
    command = next((word for word in words if not word.startswith("-")), "")
    advice = f"; {AFTER_INTERRUPT[command]}" if command in AFTER_INTERRUPT else ""
    status = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    return complain(f"interrupted{advice}", status)
