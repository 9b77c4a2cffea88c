"""``evenkeel explain``: every kernel provider with its reason for or against."""

from __future__ import annotations

from typing import Annotated

import typer

from evenkeel import errors
from evenkeel.cli._command import FINDINGS
from evenkeel.cli._completion import complete_device, complete_dtype
from evenkeel.cli._output import print_json, print_report


def explain(
    device: Annotated[
        str, typer.Option(help="Device type: cpu, cuda, mps, ...", autocompletion=complete_device)
    ] = "cpu",
    dtype: Annotated[
        str,
        typer.Option(
            help="Element type: float16, bfloat16, float32 or float64.",
            autocompletion=complete_dtype,
        ),
    ] = "float32",
    shape: Annotated[
        str, typer.Option(metavar="N,C,...", help="Shape of the input; any if left out.")
    ] = "",
    as_json: Annotated[  # noqa: FBT002 - typer makes an option of it
        bool, typer.Option("--json", help="Print the same records as JSON.")
    ] = False,
) -> None:
    """Say which kernels would serve an input here, and why not the others.

    Ends with exit code 1 if none can serve.

    Examples:
        evenkeel explain

        evenkeel explain --dtype bfloat16 --shape 32,64,28,28

        EVENKEEL_KERNELS=aten evenkeel explain --json
    """
    from evenkeel import kernels

    explanation = kernels.explain(device=device, dtype=dtype, shape=_parse_shape(shape))
    if as_json:
        print_json(explanation.to_dict())
    else:
        print_report(explanation)
    if not any(row.chosen for row in explanation.rows):
        raise typer.Exit(FINDINGS)


def _parse_shape(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise errors.InputError(
            errors.explain(
                asked="--shape of the input",
                got=repr(text),
                why="a shape is whole numbers with commas between them",
                do="e.g. --shape 32,64,28,28",
            )
        )
    return tuple(map(int, parts))
