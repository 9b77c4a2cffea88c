"""What ``PATH|MODULE:CALLABLE`` names: a file, or the model that a user's function builds."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import sys
import textwrap
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from evenkeel.errors import InputError, explain
from evenkeel.tools._describe import describe
from evenkeel.tools._inspect._network import framework_of_model

if TYPE_CHECKING:
    from collections.abc import Callable

_WRITE_ONE: Final = "write a function without arguments that returns the model, and name that"
#: Names listed in a message, and lines kept of an error of the user's code.
_LISTED: Final = 8
_LINES: Final = 12


def load_target(text: str) -> Any:  # noqa: ANN401 - a path, or a model of any framework
    """The file of that name, or the model that ``module:callable`` returns.

    Raises:
        InputError: no such module or callable, it raised an exception, or it returned
            something else than a model.
    """
    if Path(text).exists() or ":" not in text:
        _refuse_source(text)
        return Path(text)
    return load_model(text)


def load_model(text: str) -> Any:  # noqa: ANN401 - of any framework
    """The model that ``module:callable`` is or returns.

    Raises:
        InputError: as :func:`load_target`.
    """
    module, _, attribute = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        why = "it is no file that exists, and no dotted module, a colon and a name either"
        _refuse(text, text, why, "write e.g. mypackage.models:build, without a path or .py")
    # What the user's code prints must not mix with --json.
    with redirect_stdout(sys.stderr):
        found = _find(text, module, attribute)
        built = found if framework_of_model(found) else _call(text, found)
    if framework_of_model(built):
        return built
    why = "it is no model of torch, Keras, Flax or ONNX"
    return _refuse(text, describe(built), why, "let the function return the model")


def _refuse_source(text: str) -> None:
    """Point from a Python file to the functions in it; its content decides, and nothing is run."""
    path = Path(text)
    if path.suffix != ".py" or not path.is_file():
        return
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [node.name for node in body if isinstance(node, kinds) and node.name[0] != "_"]
    module = path.stem if path.is_absolute() else ".".join(path.with_suffix("").parts)
    where = f" in {path.parent}" if path.is_absolute() else ""
    defined = f"; it defines {_listed(names)}" if names else ""
    do = f"run inspect {module}:NAME{where}, NAME being a function that returns the model{defined}"
    _refuse(text, "a Python file", "it holds code and no weights; code is run by name only", do)


def _find(text: str, module: str, attribute: str) -> Any:  # noqa: ANN401 - whatever the user has
    # A console script, unlike python -m, does not look into the current directory by itself.
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found = _run(text, f"importing {module}", lambda: _import(text, module))
    for part in attribute.split("."):
        if not hasattr(found, part):
            where = f"{module} ({getattr(found, '__file__', type(found).__name__)})"
            why = f"{where} has no {part!r}"
            _refuse(text, f"the name {attribute!r}", why, _suggest(found, part))
        found = getattr(found, part)
    return found


def _suggest(found: object, part: str) -> str:
    """The names most like ``part``, or the public ones; imported modules build no model."""
    public = [
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    ]
    near = difflib.get_close_matches(part, public)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"it has: {_listed(public) or 'nothing public'}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


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
        why = "it is neither a model nor callable"
        _refuse(text, describe(found), why, "name a function that builds one")
    name = text.partition(":")[2]
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # some callables written in C say nothing
        return _run(text, f"calling {name}()", found)
    try:
        signature.bind()
    except TypeError as error:
        kind = "class" if isinstance(found, type) else "function"
        got = f"the {kind} {name}{signature.replace(return_annotation=signature.empty)}"
        _refuse(text, got, f"it is called without arguments: {error}", _WRITE_ONE)
    return _run(text, f"calling {name}()", found)


def _run(text: str, doing: str, action: Callable[[], Any]) -> Any:  # noqa: ANN401 - as above
    try:
        return action()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        own = place.filename == __file__  # the call itself failed, not what was called
        where = "" if own else f" in {place.filename}, line {place.lineno}"
        do = "mend the error above (--debug shows the traceback)"
        raise InputError(
            explain(
                asked=f"a model from {text}",
                got=_indented(f"{type(error).__name__}: {error}"),
                why=f"{doing} raised this{where}",
                do=_WRITE_ONE if own and isinstance(error, TypeError) else do,
            )
        ) from error


def _indented(message: str) -> str:
    """An error of many lines, cut and indented to stand behind ``got:``."""
    lines = message.splitlines()
    kept = [*lines[:_LINES], "..."] if len(lines) > _LINES else lines
    return textwrap.indent("\n".join(kept), " " * 7).lstrip()


def _refuse(text: str, got: str, why: str, do: str) -> NoReturn:
    raise InputError(explain(asked=f"a model from {text}", got=got, why=why, do=do))
