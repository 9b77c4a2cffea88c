"""What a Python object is, in the words of an error message."""

from __future__ import annotations


def describe(value: object) -> str:
    """Name the kind of an object: ``None``, ``an int``, ``the class torch.nn.Linear``.

    Example:
        >>> describe(3), describe(None), describe(int)
        ('an int', 'None', 'the class int')
    """
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {_full_name(value)}"
    name = _full_name(type(value))
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _full_name(kind: type) -> str:
    prefix = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{prefix}{kind.__qualname__}"
