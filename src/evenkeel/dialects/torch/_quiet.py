"""Switches off what makes a training pass random, for the time of one pass."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from torch import nn

#: Modules that draw random numbers in training mode only, beside the dropout of torch.nn.
_RANDOM: Final = ("RReLU", "StochasticDepth", "DropPath", "DropBlock2d", "GaussianNoise")
#: torch.nn's modules with a probability of their own, which reaches no dropout function.
_WITH_DROPOUT: Final = ("MultiheadAttention", "LSTM", "GRU", "RNN")
_FUNCTIONS: Final = (
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_alpha_dropout",
)


@contextmanager
def without_randomness(model: nn.Module) -> Generator[list[str]]:
    """Run a block with every dropout as the identity; gives the remarks about it.

    Dropout that is called as a function is caught, too. Random modules of other kinds are in
    evaluation mode meanwhile. A block that draws random numbers all the same is remarked.
    """
    import torch

    remarks: list[str] = []
    dropped = _silence(model, remarks)
    before = torch.random.get_rng_state()
    functions = _no_dropout()
    try:
        with functions:
            yield remarks
    finally:
        for module, value in dropped:
            module.dropout = value
    if functions.skipped:
        remarks.append(f"dropout was left out of the pass ({functions.skipped} calls)")
    if not torch.equal(before, torch.random.get_rng_state()):
        remarks.append("the model drew random numbers that could not be switched off")


def _silence(model: nn.Module, remarks: list[str]) -> list[tuple[Any, float]]:
    """Put random modules into evaluation mode; returns the probabilities that were set to 0."""
    dropped: list[tuple[Any, float]] = []
    module: Any
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind in _RANDOM and module.training:
            module.training = False
            remarks.append(f"{name} ({kind}) was in evaluation mode for the pass")
        if kind in _WITH_DROPOUT and getattr(module, "dropout", 0.0):
            dropped.append((module, module.dropout))
            module.dropout = 0.0
            remarks.append(f"the dropout inside {name} ({kind}) was 0 for the pass")
    return dropped


def _no_dropout() -> Any:
    import torch
    from torch.overrides import TorchFunctionMode

    functions: set[Callable[..., Any]] = {
        getattr(torch.nn.functional, name) for name in _FUNCTIONS
    } | {torch.dropout}

    class NoDropout(TorchFunctionMode):
        """Replaces dropout functions by the identity and counts them."""

        skipped = 0

        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Any,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            kwargs = kwargs or {}
            if func in functions:
                self.skipped += 1
                return args[0] if args else kwargs["input"]
            if kwargs.get("dropout_p") and func is torch.nn.functional.scaled_dot_product_attention:
                self.skipped += 1
                kwargs = {**kwargs, "dropout_p": 0.0}
            return func(*args, **kwargs)

    return NoDropout()
