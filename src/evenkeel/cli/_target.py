"""What ``PATH|MODULE:CALLABLE`` names: a file, or the model that a user's function builds."""

from __future__ import annotations

import importlib
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


def load_target(text: str) -> Path | nn.Module:
    """The file of that name, or what ``module:callable`` returns.

    Raises:
        InputError: no such module or callable, it raised an exception, or it returned
            something else than a torch module.
    """
    module, colon, attribute = text.partition(":")
    if Path(text).exists() or not colon:
        return Path(text)
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        why = "it is no file that exists, and no dotted module, a colon and a name either"
        _refuse(text, text, why, "write e.g. mypackage.models:build, without a path or .py")
    import torch.nn  # before the user's module, so that a missing torch is named as such

    # What the user's code prints must not mix with --json.
    with redirect_stdout(sys.stderr):
        found = _find(text, module, attribute)
        built = found if isinstance(found, torch.nn.Module) else _call(text, found)
    if isinstance(built, torch.nn.Module):
        return built
    got = f"a {type(built).__module__}.{type(built).__qualname__}"
    return _refuse(text, got, "it is no torch.nn.Module", "let the function return the model")


def _find(text: str, module: str, attribute: str) -> Any:  # noqa: ANN401 - whatever the user has
    # A console script, unlike python -m, does not look into the current directory by itself.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found = _run(text, f"importing {module}", lambda: _import(text, module))
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")]
            known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            where = f"{module} ({getattr(found, '__file__', type(found).__name__)})"
            why = f"{where} has no {part!r}"
            _refuse(text, f"the name {attribute!r}", why, f"it has: {known or 'nothing public'}")
        found = getattr(found, part)
    return found


def _import(text: str, module: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        why = f"there is no module {error.name!r} in {Path.cwd()}, nor is one installed"
        do = "run the command where the module is"
        if module.endswith(".py"):
            do = f"leave .py out: {module.removesuffix('.py')}:..."
        _refuse(text, f"the module {module!r}", why, do)


def _call(text: str, found: Any) -> Any:  # noqa: ANN401 - whatever the user has
    if not callable(found):
        got = f"a {type(found).__qualname__}"
        _refuse(text, got, "it is neither a model nor callable", "name a function that builds one")
    return _run(text, f"calling {text.partition(':')[2]}()", found)


def _run(text: str, doing: str, action: Callable[[], Any]) -> Any:  # noqa: ANN401 - as above
    try:
        return action()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if place.filename == __file__ else f" in {place.filename}, line {place.lineno}"
        raise InputError(
            explain(
                asked=f"a model from {text}",
                got=f"{type(error).__name__}: {error}",
                why=f"{doing} raised this{where}",
                do="make it work without arguments; --debug shows the traceback",
            )
        ) from error


def _refuse(text: str, got: str, why: str, do: str) -> NoReturn:
    raise InputError(explain(asked=f"a model from {text}", got=got, why=why, do=do))
