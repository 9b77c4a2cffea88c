"""``evenkeel compare``: whether two networks, or two files of weights, are the same."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from evenkeel.cli._command import FINDINGS
from evenkeel.cli._completion import complete_backend
from evenkeel.cli._output import print_json, print_report
from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from evenkeel.tools import Comparison
    from evenkeel.tools._convert._compare import FileComparison

_METAVAR: Final = "PATH|MODULE:CALLABLE[@PATH]"
#: Endings of files that hold an architecture beside the weights.
_WHOLE: Final = (".keras", ".onnx")


def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar=_METAVAR,
            help="A .keras or .onnx file; a function without arguments that returns a model, "
            "with the file of its weights behind an @; or any file of weights.",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar=_METAVAR, help="Likewise.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            help="A .npy file in the layout of A; given twice, one for each. Random without it.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=0, help="Training steps to prove, too.")] = 0,
    backend_a: Annotated[
        str,
        typer.Option(
            help="Keras backend of A: tensorflow, jax, torch.", autocompletion=complete_backend
        ),
    ] = "",
    backend_b: Annotated[
        str, typer.Option(help="Keras backend of B.", autocompletion=complete_backend)
    ] = "",
    as_json: Annotated[  # noqa: FBT002 - typer makes an option of it
        bool, typer.Option("--json", help="Print the same records as JSON.")
    ] = False,
) -> None:
    """Say whether two networks compute the same, layer by layer, and where they part.

    Files of weights alone are compared array by array, across frameworks, too.
    Ends with exit code 1 if something differs. MODULE:CALLABLE runs your code.

    Examples:
        evenkeel compare model.keras mynets:build@model.safetensors

        evenkeel compare a.keras b.keras --backend-b jax --steps 5

        evenkeel compare before.pt after.safetensors
    """
    # TensorFlow greets on standard error otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if _are_files(a, b):
        _require_plain(a, b, inputs, steps, backend_a or backend_b)
        from evenkeel.tools import compare_files

        report: FileComparison | Comparison = compare_files(a, b)
    else:
        report = _compare_networks((a, b), (backend_a, backend_b), inputs or [], steps)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    if not report.equal:
        raise typer.Exit(FINDINGS)


def _are_files(a: str, b: str) -> bool:
    """Whether both are files and one has weights only, so that nothing can be run."""
    files = all(Path(text).exists() or ":" not in text for text in (a, b))
    return files and not all(Path(text).suffix.lower() in _WHOLE for text in (a, b))


def _require_plain(a: str, b: str, inputs: list[Path] | None, steps: int, backend: str) -> None:
    if not (inputs or steps or backend):
        return
    weights = next(text for text in (a, b) if Path(text).suffix.lower() not in _WHOLE)
    raise InputError(
        explain(
            asked="run two networks side by side",
            got=f"{weights}, a file of weights without an architecture",
            why="--inputs, --steps and backends need a network that can be run",
            do=f"name the function that builds it: MODULE:CALLABLE@{weights}",
        )
    )


def _compare_networks(
    targets: tuple[str, str], backends: tuple[str, str], inputs: list[Path], steps: int
) -> Comparison:
    from evenkeel import tools
    from evenkeel.cli._inputs import choose_inputs
    from evenkeel.cli._networks import open_side

    with ExitStack() as stack:
        sides: list[Any] = []
        for text, backend in zip(targets, backends, strict=True):
            side = open_side(text, backend)
            stack.callback(side.network.close)
            sides.append(side)
        chosen, remark = choose_inputs(inputs, *sides)
        if remark:
            typer.echo(remark, err=True)
        return tools.compare(sides[0].network, sides[1].network, chosen, steps)
