"""The `repro` application of typer: its groups of commands, its help, and how words are read.

A module of commands adds one with the decorator `command`.
"""

from collections.abc import Callable
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from repro import __version__
from repro.cli.output import say

SETTINGS = """\
Settings: REPRO_MODEL and REPRO_PROFILE choose what notebooks show; REPRO_DATA
is a folder of EntityQuestions; REPRO_CACHE is where weights and records are
kept. README.md has the rest."""
LOOK, STUDY, TOOL = GROUPS = ("Models and facts", "A study", "The restoration tool")


class _Command(TyperCommand):
    """A command whose examples are printed as written, and whose --percent takes many values."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Print the examples, one a line, without wrapping them."""
        if self.epilog:
            with formatter.section("Examples"):
                lines = (f"{'':{formatter.current_indent}}{x}\n" for x in self.epilog.splitlines())
                formatter.write("".join(lines))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the arguments as the help names them: OUT in brackets, as it may be left out."""
        arguments = [x for x in self.params if not x.opts[0].startswith("-")]
        return ["[options]", *(str(x.metavar) for x in arguments)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words; `--percent 5 20 OTHER` means `--percent 5 --percent 20 OTHER`."""
        return super().parse_args(ctx, repeat_percent(args))


def repeat_percent(words: list[str]) -> list[str]:
    """Return the words with `--percent` before every number that follows it.

    The list of numbers ends at the first word that is not a number. So a folder whose name is a
    number must be written `./20`.
    """
    repeated: list[str] = []
    in_list = False
    for place, word in enumerate(words):
        if word == "--":  # all words after it are arguments
            return repeated + words[place:]
        if in_list and _is_number(word):
            repeated += ["--percent", word]
            continue
        in_list = word == "--percent"
        # The numbers bring their own --percent. Without any number typer reports the error.
        if not (in_list and any(map(_is_number, words[place + 1 : place + 2]))):
            repeated.append(word)
    return repeated


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class _CommandGroup(TyperGroup):
    """The commands in groups by purpose, like a table of contents."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Print the commands first, then the few options that stand before one."""
        self.format_commands(ctx, formatter)
        _Command.format_options(cast(Any, self), ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Print each group of commands under its title."""
        width = max(len(name) for name in self.commands)
        rows_by_group: dict[str, list] = {title: [] for title in GROUPS}
        for name, command in self.commands.items():
            row = (f"{name:{width}}", command.short_help)
            rows_by_group[str(cast(_Command, command).rich_help_panel)].append(row)
        for title, rows in rows_by_group.items():
            with formatter.section(title), formatter.indentation():
                formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Print the settings without wrapping them."""
        formatter.write(f"\n{SETTINGS}\n")


app = typer.Typer(
    name="repro",
    cls=_CommandGroup,
    rich_markup_mode=None,
    subcommand_metavar="COMMAND ...",
    options_metavar="[options]",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Study what fine-tuning does to a model's knowledge, and undo part of it.",
    epilog=SETTINGS,
)


def command(group: str, summary: str, *examples: str) -> Callable[[Any], Any]:
    """Return a decorator that adds a function to the application as a command.

    Args:
        group: the title in `GROUPS` under which `repro --help` lists the command.
        summary: what it does, in the list of commands.
        examples: command lines, printed at the end of the command's own help.
    """
    return app.command(
        cls=_Command,
        rich_help_panel=group,
        short_help=summary,
        options_metavar="[options]",
        epilog="\n".join(examples),
    )


def _print_version(requested: bool) -> None:
    if requested:
        say(f"repro {__version__}")
        raise typer.Exit


@app.callback()
def _any_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Read the options that stand before the command."""
