"""What all commands share: ``--debug``, and which failure ends with which message and code."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from evenkeel.errors import EvenkeelError, explain

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

FINDINGS: Final = 1
UNUSABLE: Final = 2
INTERRUPTED: Final = 130  # 128 + SIGINT
PIPE_CLOSED: Final = 141  # 128 + SIGPIPE

#: Package that may be missing -> the extra of evenkeel that brings it.
_EXTRAS: Final = {
    "torch": "torch",
    "jinja2": "study",
    "joblib": "study",
    "PIL": "study",
    "plotly": "study",
    "sklearn": "study",
}
_DEBUG: Final = inspect.Parameter(
    "debug",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
)


def as_command(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with an option ``--debug``, its errors turned into one message and an exit code.

    Where it returns, what it printed has left the process.
    """

    @functools.wraps(verb)
    def command(*args: Any, debug: bool = False, **own: Any) -> None:  # noqa: ANN401 - the verb's
        try:
            verb(*args, **own)
            sys.stdout.flush()
        except BrokenPipeError:
            _close_pipe()
        except EvenkeelError as error:
            _fail(str(error), debug=debug)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            _fail(_missing(error, extra), debug=debug)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    # typer reads the signature for names and defaults, and the annotations for types.
    signature = inspect.signature(verb, eval_str=True)
    parameters = {**signature.parameters, _DEBUG.name: _DEBUG}
    vars(command)["__signature__"] = signature.replace(parameters=list(parameters.values()))
    command.__annotations__ = {name: p.annotation for name, p in parameters.items()}
    return command


def _fail(message: str, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    typer.echo(f"evenkeel: {message}", err=True)
    raise typer.Exit(UNUSABLE) from None


def _missing(error: ModuleNotFoundError, extra: str) -> str:
    return explain(
        asked="run this command",
        got=f"no package {error.name}",
        why=f"it comes with the extra {extra!r} of evenkeel, which is not installed",
        do=f'pip install "evenkeel[{extra}]"',
    )


def _close_pipe() -> NoReturn:
    # Python flushes stdout once more at its end, and would complain there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(PIPE_CLOSED) from None
