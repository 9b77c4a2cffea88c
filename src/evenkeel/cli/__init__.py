"""The command line: arguments and text. Nothing heavy is imported until a command runs.

Exit codes: 0 fine; 1 findings, or nothing can serve; 2 the input cannot be used, or the output
cannot be written; 130 stopped with Ctrl-C; 141 the reader of a pipe went away; 143 terminated.
"""

from __future__ import annotations

from typing import Annotated

import typer

from evenkeel.cli._bench import bench
from evenkeel.cli._bench_steps import bench_steps
from evenkeel.cli._command import Command, Group, as_command
from evenkeel.cli._compare import compare
from evenkeel.cli._convert import convert
from evenkeel.cli._explain import explain
from evenkeel.cli._inspect import inspect
from evenkeel.cli._study import study

__all__ = ["app", "main"]

app = typer.Typer(
    name="evenkeel",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verb in (study, inspect, convert, compare, bench, bench_steps, explain):
    app.command(cls=Command)(as_command(_verb))


def _print_version(value: bool) -> None:  # noqa: FBT001 - typer passes the flag
    if value:
        from evenkeel import __version__

        typer.echo(f"evenkeel {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # noqa: FBT002 - the callback acts on it
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Batch normalization that is exact, fast, portable and explains itself."""


def main() -> None:
    """Run the command line with the arguments of this process, and exit with its code."""
    app(prog_name="evenkeel")  # also under python -m, because completion goes by this name
