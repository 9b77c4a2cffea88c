"""Reads a live torch module; nothing is written into it, and no hook of it runs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final, Literal

from evenkeel.dialects.torch._tensors import UnsaidError, dtype_name, to_numpy
from evenkeel.errors import InputError, explain
from evenkeel.spec import Activation, Momentum, Spec, State

if TYPE_CHECKING:
    from torch import Tensor, nn

ARRAYS: Final = ("weight", "bias", "running_mean", "running_var")
_COUNTER: Final = "num_batches_tracked"
#: Classes whose forward is torch's own arithmetic; another one's may do more than Spec says.
_KNOWN: Final = ("torch.nn.modules.batchnorm", "evenkeel.nn")


def is_batch_norm(module: nn.Module) -> bool:
    """Whether the module is a batch-norm layer that this dialect reads.

    These are all of torch's own (Sync and Lazy, too) and their subclasses, evenkeel's fused
    layers, and frozen ones as torchvision and detectron2 have them: four buffers, no parameter.
    """
    # torch has no public name for either.
    from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
    from torch.nn.modules.instancenorm import (
        _InstanceNorm,  # pyright: ignore[reportPrivateUsage]
    )

    if isinstance(module, _BatchNorm):
        return True
    if isinstance(module, _InstanceNorm):
        return False
    buffers = _buffers(module)
    if buffers.keys() >= {*ARRAYS}:
        return True
    settings = all(hasattr(module, name) for name in ("num_features", "eps", "momentum"))
    return settings and buffers.keys() >= {"running_mean", "running_var"}


def read_module(module: nn.Module, name: str = "") -> tuple[Spec, State]:
    """Read one batch-norm layer.

    Args:
        module: see :func:`is_batch_norm`.
        name: of the layer in its model, for the description and for messages.

    Raises:
        InputError: it is no batch-norm layer, or its arrays do not fit together.
        UnsaidError: a lazy layer without shapes yet, one without values (meta device), or one
            whose eps is no attribute.

    Example:
        >>> from torch import nn
        >>> spec, state = read_module(nn.BatchNorm2d(3))
        >>> spec.momentum, state.running_var
        (Momentum(value=0.1, weighs='new'), array([1., 1., 1.], dtype=float32))
    """
    spec = read_spec(module, name)
    return spec, read_state(module, name).check(spec)


def read_spec(module: nn.Module, name: str = "") -> Spec:
    """The description alone; it needs shapes, but no values (meta device)."""
    _require(module, name)
    tensors = {key: tensor_of(module, key) for key in ARRAYS}
    frozen = is_frozen(module)
    settings: dict[str, Any] = {
        "channels": _channels(module, name, tensors),
        "eps": _eps(module, name),
        "momentum": Momentum(getattr(module, "momentum", 0.1), "new"),
        "scale": tensors["weight"] is not None,
        "offset": tensors["bias"] is not None,
        "track_statistics": tensors["running_mean"] is not None,
        "variance": getattr(module, "variance", "unbiased"),
        "rank": _rank(module),
        "affine_frozen": _is_affine_frozen(tensors),
        "statistics_frozen": frozen,
        "activation": _activation(module),
        "synchronized": "SyncBatchNorm" in {kind.__name__ for kind in type(module).__mro__},
        "name": name,
        "options": _options(module, tensors),
    }
    for field, keys in (
        ("parameter_dtype", ("weight", "bias")),
        ("statistics_dtype", ("running_mean", "running_var")),
    ):
        found = [tensor for key in keys if (tensor := tensors[key]) is not None]
        if found:
            settings[field] = dtype_name(found[0])
    return Spec(**settings)


def read_state(module: nn.Module, name: str = "") -> State:
    """The arrays alone, copied; bfloat16 comes as float32."""
    _require(module, name)
    tensors = {key: tensor_of(module, key) for key in ARRAYS}
    arrays = [
        None if tensor is None else to_numpy(tensor, f"{name}.{key}")
        for key, tensor in tensors.items()
    ]
    counter = tensor_of(module, _COUNTER)
    batches = None if counter is None else int(to_numpy(counter, f"{name}.{_COUNTER}").item())
    return State(*arrays, batches=batches)


def is_frozen(module: nn.Module) -> bool:
    """Whether scale, offset and statistics are all buffers, as in ``FrozenBatchNorm2d``."""
    return _buffers(module).keys() >= {*ARRAYS}


def tensor_of(module: nn.Module, key: str) -> Tensor | None:
    """A parameter or buffer of the layer, None if it has none.

    A parametrized one is computed by a copy: spectral norm, for one, moves its vectors at
    every access in training mode.
    """
    own: dict[str, Any] = {**vars(module).get("_parameters", {}), **_buffers(module)}
    if key in own:
        return own[key]
    parametrizations = getattr(module, "parametrizations", {})
    if key in parametrizations:
        import torch

        with torch.no_grad():
            return copy.deepcopy(parametrizations[key]).eval()()
    # torch.nn.utils.weight_norm and prune leave a plain tensor attribute.
    value = vars(module).get(key)
    return value if hasattr(value, "detach") else None


def _buffers(module: nn.Module) -> dict[str, Any]:
    return dict(vars(module).get("_buffers", {}))


def _require(module: nn.Module, name: str) -> None:
    from torch.nn.parameter import is_lazy

    if not is_batch_norm(module):
        raise _refusal(
            module,
            name,
            why="it is neither one of torch's batch-norm layers nor built like one",
            do="pass the batch-norm layer itself; model.named_modules() lists the layers",
        )
    tensors = [tensor for key in ARRAYS if (tensor := tensor_of(module, key)) is not None]
    if any(map(is_lazy, tensors)):
        raise _refusal(
            module,
            name,
            kind=UnsaidError,
            why="a lazy layer has no channels before its first input",
            do="run the model once on an example, in eval mode to keep the statistics",
        )


def _channels(module: nn.Module, name: str, tensors: dict[str, Tensor | None]) -> int:
    """From the arrays, because ``num_features`` stays 0 in a lazy layer that was loaded."""
    for tensor in tensors.values():
        if tensor is not None and tensor.dim() == 1:
            return tensor.shape[0]
    channels = getattr(module, "num_features", None)
    if not isinstance(channels, int):
        raise _refusal(module, name, why="it says nowhere how many channels it has", do="set it")
    return channels


def _eps(module: nn.Module, name: str) -> float:
    eps: Any = getattr(module, "eps", None)
    if eps is None:
        raise _refusal(
            module,
            name,
            kind=UnsaidError,
            why="it has no attribute eps; the number is hidden in its forward()",
            do="set module.eps to the number that forward() uses",
        )
    return float(eps)


def _rank(module: nn.Module) -> Literal[4, 5] | None:
    """Of the input; None for the 1d layers, which take 2 and 3, and for Sync, which takes all."""
    for kind in type(module).__mro__:
        if kind.__name__.endswith(("Norm2d", "NormAct2d")):
            return 4
        if kind.__name__.endswith(("Norm3d", "NormAct3d")):
            return 5
    return None


def _is_affine_frozen(tensors: dict[str, Tensor | None]) -> bool:
    affine = [tensor for key in ("weight", "bias") if (tensor := tensors[key]) is not None]
    return bool(affine) and not any(tensor.requires_grad for tensor in affine)


def _activation(module: nn.Module) -> Activation:
    """Of evenkeel's fused layers; elsewhere ``activation`` may be a module or a function."""
    value = getattr(module, "activation", None)
    return Activation.parse(value if isinstance(value, str | tuple | Activation) else None)


def _options(module: nn.Module, tensors: dict[str, Tensor | None]) -> dict[str, Any]:
    """What only torch understands, and the class of a layer with a forward of its own."""
    options: dict[str, Any] = {}
    if tensors["running_mean"] is not None and not getattr(module, "track_running_stats", True):
        options["track_running_stats"] = False  # set later: the buffers stay and serve in eval
    policy = getattr(module, "nonfinite", "propagate")  # what every framework's own layer does
    if policy != "propagate" and not is_frozen(module):
        options["nonfinite"] = policy
    home = f"{type(module).__module__}.{type(module).__qualname__}"
    if not home.startswith(_KNOWN) and not is_frozen(module):
        options["class"] = home
    return options


def _refusal(
    module: nn.Module, name: str, *, why: str, do: str, kind: type[InputError] = InputError
) -> InputError:
    asked = f"read the batch-norm layer {name!r}" if name else "read a batch-norm layer"
    got = f"a {type(module).__module__}.{type(module).__name__}"
    return kind(explain(asked=asked, got=got, why=why, do=do))
