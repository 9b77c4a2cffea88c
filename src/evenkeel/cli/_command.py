"""What all commands share: ``--debug``, and which failure ends with which message and code."""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from evenkeel.cli._completion import require_shell
from evenkeel.cli._output import OutputError, discard_output, writing
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
    "flax": "flax",
    "h5py": "formats",
    "jax": "flax",
    "keras": "keras",
    "ml_dtypes": "formats",
    "msgpack": "formats",
    "onnx": "formats",
    "onnxruntime": "onnx",
    "orbax": "flax",
    "jinja2": "study",
    "joblib": "study",
    "msgspec": "study",
    "PIL": "study",
    "plotly": "study",
    "scipy": "study",
    "sklearn": "study",
}
_DEBUG: Final = inspect.Parameter(
    "debug",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
)


class Flags:
    """Mixin for typer's commands and groups: tidy flags, and help that a full disk cannot break.

    typer writes ``<bool>`` beside each flag, which reads as if a value had to follow; and it
    prints help and version, and writes completion, while it parses, before any command runs.
    """

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - typer hides its own click
        """All parameters, flags without a type."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc] - of the class beside
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params

    def make_context(self, *args: Any, **settings: Any) -> Any:  # noqa: ANN401 - as above
        """Parse the arguments, which prints help and version."""
        try:
            with writing():
                return super().make_context(*args, **settings)  # type: ignore[misc] - as above
        except BrokenPipeError:
            _close_pipe()
        except OutputError as error:
            discard_output()
            _fail(str(error), debug=False)
        except EvenkeelError as error:
            _fail(str(error), debug=False)


class Command(Flags, TyperCommand):
    """A command of evenkeel."""


class Group(Flags, TyperGroup):
    """The command line of evenkeel."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as above
        """Parse the arguments, and refuse completion for a shell that typer does not know."""
        require_shell(args)
        return super().parse_args(ctx, args)


def as_command(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with an option ``--debug``, its errors turned into one message and an exit code.

    Where it returns, what it printed has left the process.
    """

    @functools.wraps(verb)
    def command(*args: Any, debug: bool = False, **own: Any) -> None:  # noqa: ANN401 - the verb's
        try:
            verb(*args, **own)
            with writing():
                sys.stdout.flush()
        except BrokenPipeError:
            _close_pipe()
        except OutputError as error:
            discard_output()  # before the message, so that nothing is written twice
            _fail(str(error), debug=debug)
        except EvenkeelError as error:
            _fail(str(error), debug=debug)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            _fail(_missing(error, extra), debug=debug)
        except KeyboardInterrupt:
            typer.echo("Interrupted.", err=True)
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
    discard_output()
    raise typer.Exit(PIPE_CLOSED) from None
