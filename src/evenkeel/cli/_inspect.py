"""``evenkeel inspect``: the batch-norm layers of a checkpoint or model as a table."""

from __future__ import annotations

from typing import Annotated

import typer

from evenkeel.cli._command import FINDINGS
from evenkeel.cli._output import print_json, print_report


def inspect(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PATH|MODULE:CALLABLE",
            help="A checkpoint (.safetensors, .pt, .keras, .h5, .msgpack, Orbax, .onnx, .npz), or "
            "a function without arguments that returns a model of torch, Keras, Flax or ONNX; "
            "its module is looked for in the current directory, too.",
        ),
    ],
    as_json: Annotated[  # noqa: FBT002 - typer makes an option of it
        bool, typer.Option("--json", help="Print the same records as JSON.")
    ] = False,
) -> None:
    """List all batch-norm layers and mark what is suspicious.

    Ends with exit code 1 if something weighs more than a note.
    No code from a file is run; MODULE:CALLABLE runs your code.

    Examples:
        evenkeel inspect model.safetensors

        evenkeel inspect model.keras --json

        evenkeel inspect torchvision.models:resnet18
    """
    from evenkeel import tools
    from evenkeel.cli._target import load_target

    report = tools.inspect(load_target(target))
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    if report.suspicious:
        raise typer.Exit(FINDINGS)
