"""One exception tree for the whole package.

Every message answers four questions, in this order: what was asked, what came, why that
cannot work, and what to do instead. :func:`explain` joins the four parts.

Where PyTorch raises a built-in exception for the same mistake, ours derives from that
built-in as well, so that code written for ``torch.nn.BatchNorm2d`` keeps catching it.
"""

from __future__ import annotations

__all__ = [
    "ChannelError",
    "DTypeError",
    "EvenkeelError",
    "EvenkeelWarning",
    "FileError",
    "InputError",
    "NonFiniteError",
    "NonFiniteWarning",
    "ProviderError",
    "ShapeError",
    "TransformError",
    "UnsayableError",
    "explain",
]


class EvenkeelError(Exception):
    """Base of every error that evenkeel raises on purpose."""


class InputError(EvenkeelError, ValueError):
    """The user's input cannot be used; the command line answers with exit code 2."""


class ShapeError(InputError):
    """A tensor, array or mask has the wrong rank or shape."""


class ChannelError(ShapeError, RuntimeError):
    """The number of channels does not match the layer (torch raises RuntimeError here)."""


class DTypeError(InputError, NotImplementedError, TypeError):
    """An element type that batch normalization is not defined for."""


class FileError(InputError):
    """A file is missing, unreadable, damaged, or of a kind that is refused."""


class UnsayableError(InputError):
    """The target of a conversion cannot say what the source says, named field by field."""


class ProviderError(EvenkeelError, RuntimeError):
    """A kernel provider that was chosen explicitly cannot serve; nothing falls back."""


class TransformError(EvenkeelError, RuntimeError):
    """A combination of torch transforms that torch itself cannot express."""


class NonFiniteError(EvenkeelError, FloatingPointError):
    """A batch with NaN or Inf under ``nonfinite="raise"``."""


class EvenkeelWarning(UserWarning):
    """Base of every warning that evenkeel gives."""


class NonFiniteWarning(EvenkeelWarning):
    """A batch with NaN or Inf was kept out of the running statistics."""


def explain(*, asked: str, got: str, why: str, do: str) -> str:
    """Join the four parts of an error message into one text of four short lines."""
    return f"{asked}\n  got: {got}\n  why: {why}\n  do:  {do}"
