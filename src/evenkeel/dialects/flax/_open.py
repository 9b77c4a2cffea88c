"""Opens a live Flax model, NNX or Linen, as a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evenkeel.dialects.flax._linen import LinenNetwork
from evenkeel.dialects.flax._modes import find_modes, one_input
from evenkeel.dialects.flax._nnx import NnxNetwork
from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from evenkeel.dialects._network import Network


def open_network(model: Any) -> Network:
    """The network interface of a live Flax model.

    How a model is told to train is looked for in the arguments of its ``__call__`` (``train``,
    ``training``, ``is_training``, ``use_running_average``, ``deterministic``, ``inference``) and
    in the fields of a Linen module of the same names. An NNX model is switched by ``train()``
    and ``eval()`` besides; one whose layers are partly in inference mode keeps those so.

    Args:
        model: an ``flax.nnx.Module``, or (``flax.linen.Module``, variables); behind them may
            stand a dictionary of the mode argument with its value in training, such as
            ``{"is_train": True}``.

    Raises:
        InputError: it is neither, or it needs several inputs.
    """
    from flax import linen, nnx

    parts: tuple[Any, ...] = model if isinstance(model, tuple) else (model,)
    if 1 <= len(parts) <= 2 and isinstance(parts[0], nnx.Module):
        modes = _given(parts[1:], parts[0])
        one_input(parts[0], modes)
        return NnxNetwork(parts[0], find_modes(parts[0], modes))
    pair = 2 <= len(parts) <= 3 and isinstance(parts[0], linen.Module)
    if pair and isinstance(parts[1], Mapping) and {"params", "batch_stats"} & parts[1].keys():
        modes = _given(parts[2:], parts[0])
        one_input(parts[0], modes)
        return LinenNetwork(parts[0], parts[1], find_modes(parts[0], modes))
    raise InputError(
        explain(
            asked="open a Flax model",
            got=", ".join(f"a {type(p).__module__}.{type(p).__qualname__}" for p in parts),
            why="a Linen module comes with its variables (params, batch_stats), an NNX one alone",
            do="pass an nnx.Module, or (linen module, variables as init() returns them)",
        )
    )


def _given(rest: tuple[Any, ...], module: Any) -> dict[str, bool]:
    modes = rest[0] if rest else {}
    if isinstance(modes, Mapping) and all(isinstance(value, bool) for value in modes.values()):
        return dict(modes)
    raise InputError(
        explain(
            asked=f"the mode argument of a {type(module).__qualname__}",
            got=f"{modes!r}",
            why="it is a dictionary of argument names and their values in training",
            do='pass e.g. {"train": True}',
        )
    )
