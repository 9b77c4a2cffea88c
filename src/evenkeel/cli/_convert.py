"""``evenkeel convert``: a checkpoint of one framework as a checkpoint of another."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated, Any, cast

import typer

from evenkeel.cli._completion import complete_framework, complete_kind
from evenkeel.cli._output import print_json, print_report
from evenkeel.errors import InputError, explain

_KIND: Any = typer.Option(
    metavar="PATTERN=KIND",
    help="What a layer is where names and shapes do not tell, e.g. 'emb*=embedding'.",
    autocompletion=complete_kind,
)
_MAP: Any = typer.Option("--map", metavar="A=B", help="Layer A of the source is layer B of --like.")


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="The checkpoint to read; its content decides.")
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET",
            help="The file to write; its ending decides: .safetensors, .pt, .pth (torch), .keras, "
            ".h5 (Keras), .msgpack or none for an Orbax folder (Flax), .onnx, .npz.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="Whose names and layouts the target has: torch, keras, flax or onnx.",
            autocompletion=complete_framework,
        ),
    ] = "",
    like: Annotated[
        str,
        typer.Option(
            metavar="PATH|MODULE:CALLABLE",
            help="A file of the target's framework, or a function that returns a model of it; "
            "gives names and structure. Needed for Keras and ONNX.",
        ),
    ] = "",
    kind: Annotated[list[str] | None, _KIND] = None,
    pairs: Annotated[list[str] | None, _MAP] = None,
    inference: Annotated[  # noqa: FBT002 - typer makes an option of it
        bool,
        typer.Option("--inference", help="List what only training needs instead of refusing it."),
    ] = False,
    force: Annotated[  # noqa: FBT002 - likewise
        bool, typer.Option("--force", help="Replace a target that exists.")
    ] = False,
    as_json: Annotated[  # noqa: FBT002 - likewise
        bool, typer.Option("--json", help="Print the same records as JSON.")
    ] = False,
) -> None:
    """Write the weights of one file as a file of another framework.

    Everything is checked before the target is opened.
    What the target cannot store is printed: eps, momentum, variance convention.

    Examples:
        evenkeel convert model.keras model.safetensors

        evenkeel convert model.pt model.keras --like like.keras

        evenkeel convert model.pt model.msgpack --kind "fc=dense:7x7x64"
    """
    from evenkeel import tools

    report = tools.convert(
        source,
        target,
        to=cast("Any", to or None),
        like=_like(like),
        kinds=_named(kind, "--kind", "emb*=embedding"),
        mapping=_named(pairs, "--map", "layer1.conv=block1_conv"),
        purpose="inference" if inference else "training",
        overwrite=force,
    )
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)


def _like(text: str) -> object:
    from evenkeel.cli._target import load_target

    return load_target(text) if text else None


def _named(options: list[str] | None, option: str, example: str) -> dict[str, str]:
    named: dict[str, str] = {}
    for text in options or ():
        name, equals, value = text.rpartition("=")
        if not (name and equals and value):
            raise InputError(
                explain(
                    asked=option,
                    got=repr(text),
                    why="it is a name, an equals sign and a value",
                    do=f"e.g. {option} '{example}'",
                )
            )
        named[name] = value
    return named
