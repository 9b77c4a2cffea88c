"""Finds the layers of a live torch model and says what each of them is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from evenkeel.checkpoints import StoredArray
from evenkeel.dialects._layers import Kind, Layer
from evenkeel.dialects.torch._layouts import RECURRENT, Role, as_it_is, roles_of
from evenkeel.dialects.torch._modules import is_batch_norm, read_spec
from evenkeel.dialects.torch._tensors import UnsaidError, dtype_name, to_numpy
from evenkeel.errors import explain

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evenkeel.spec import Spec

#: Class of torch.nn -> kind, and whether the channels stand at axis 1 of input and output.
_KINDS: Final[dict[str, tuple[Kind, bool]]] = {
    "Linear": ("dense", False),
    "Conv1d": ("conv", True),
    "Conv2d": ("conv", True),
    "Conv3d": ("conv", True),
    "ConvTranspose1d": ("conv_transpose", True),
    "ConvTranspose2d": ("conv_transpose", True),
    "ConvTranspose3d": ("conv_transpose", True),
    "Embedding": ("embedding", False),
    "LayerNorm": ("layer_norm", False),
    "GroupNorm": ("group_norm", True),
    "PReLU": ("prelu", True),
    "LSTM": ("lstm", False),
    "GRU": ("gru", False),
    "RNN": ("simple_rnn", False),
}
#: Classes whose weights another module uses in its own way.
_OTHERS: Final = ("NonDynamicallyQuantizableLinear",)


@dataclass(frozen=True, slots=True)
class Part:
    """One layer of a live model.

    Args:
        name: of the layer.
        kind: of the layer.
        module: that holds it; a recurrent module holds several.
        roles: of the layer; none has another kind's.
        channels_first: whether axis 1 of the layer's input and output is that of the channels;
            None if unknown.
        settings: of the kind.
        spec: of a batch norm.
    """

    name: str
    kind: Kind
    module: nn.Module
    roles: dict[str, Role]
    channels_first: bool | None = None
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    spec: Spec | None = None

    def tensors(self, role: str) -> list[Tensor]:
        """The tensors that hold a role."""
        held = own_tensors(self.module)
        return [held[name] for name in self.roles[role].tensors]

    def layer(self) -> Layer:
        """The part in no framework's words; its arrays are those of the time of reading."""
        trained = [tensor for role in self.roles for tensor in self.tensors(role)]
        trainable = any(tensor.requires_grad for tensor in trained)
        if self.spec is not None and not (self.spec.scale or self.spec.offset):
            trainable = not self.spec.statistics_frozen
        arrays = {role: self._stored(role) for role in self.roles}
        return Layer(self.name, self.kind, arrays, self.settings, self.spec, (), trainable)

    def _stored(self, role: str) -> StoredArray:
        held, tensors = self.roles[role], self.tensors(role)
        shape = held.shape(*(tuple(tensor.shape) for tensor in tensors))
        named = [f"{self.name}.{name}" for name in held.tensors]

        def read() -> Any:
            return held.read(*map(to_numpy, self.tensors(role), named))

        return StoredArray(shape, dtype_name(tensors[0]), read)


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers of the module itself, by name."""
    unsaved: set[str] = vars(module).get("_non_persistent_buffers_set", set())
    own = {**vars(module).get("_parameters", {}), **vars(module).get("_buffers", {})}
    return {key: value for key, value in own.items() if value is not None and key not in unsaved}


def find_parts(model: nn.Module) -> list[Part]:
    """All layers of a model that hold arrays, and all its batch norms, in code order.

    Raises:
        UnsaidError: a lazy layer has no shapes yet.
    """
    found: list[Part] = []
    for name, module in model.named_modules():
        _require_shapes(module, name)
        found += _parts_of(module, name)
    return found


def _parts_of(module: nn.Module, name: str) -> list[Part]:
    own = own_tensors(module)
    if is_batch_norm(module) and not _is_rewritten(module, own, "batch_norm"):
        spec = read_spec(module, name)
        return [
            Part(
                name,
                "batch_norm",
                module,
                roles_of("batch_norm", own),
                channels_first=True,
                spec=spec,
            )
        ]
    kind, channels_first = _kind(module)
    if kind in RECURRENT and not getattr(module, "proj_size", 0):
        return _recurrent_parts(module, name, kind)
    if kind in RECURRENT or kind == "other" or _is_rewritten(module, own, kind):
        return _other(module, name, own)
    settings = _SETTINGS[kind](module) if kind in _SETTINGS else {}
    if type(module).__module__ not in _HOMES:
        settings["class"] = _home(module)
    roles = roles_of(kind, own)
    return [Part(name, kind, module, roles, channels_first, settings)] if roles else []


def _kind(module: nn.Module) -> tuple[Kind, bool | None]:
    if type(module).__name__ in _OTHERS or getattr(module, "max_norm", None) is not None:
        return "other", None
    if type(module).__name__ == "LayerNorm" and len(vars(module)["normalized_shape"]) > 1:
        return "other", None  # (C, *S) in torch, (*S, C) elsewhere
    for base in type(module).__mro__:
        if base.__module__ in _HOMES and base.__name__ in _KINDS:
            return _KINDS[base.__name__]
    return "other", None


_HOMES: Final = {
    f"torch.nn.modules.{name}"
    for name in ("linear", "conv", "sparse", "normalization", "activation", "rnn")
}


def _is_rewritten(module: nn.Module, own: dict[str, Tensor], kind: Kind) -> bool:
    """Whether the layer computes its weights from others (parametrized, pruned, weight norm)."""
    known = {name for role in roles_of(kind).values() for name in role.tensors}
    floating = {name for name, tensor in own.items() if tensor.is_floating_point()}
    return bool(floating - known) or hasattr(module, "parametrizations")


def _other(module: nn.Module, name: str, own: dict[str, Tensor]) -> list[Part]:
    """A module of another class that holds arrays itself; integer tables are no weights."""
    roles = {key: as_it_is(key) for key, tensor in own.items() if tensor.is_floating_point()}
    settings = {"class": _home(module)}
    return [Part(name, "other", module, roles, None, settings)] if roles else []


def _recurrent_parts(module: Any, name: str, kind: Kind) -> list[Part]:
    settings: dict[str, Any] = {"reset_after": True} if kind == "gru" else {}
    if kind == "simple_rnn":
        settings["activation"] = module.nonlinearity
    directions = ("forward", "backward") if module.bidirectional else ("",)
    found: list[Part] = []
    for index in range(module.num_layers):
        for direction in directions:
            suffix = f"_l{index}{'_reverse' if direction == 'backward' else ''}"
            depth = f"l{index}" if module.num_layers > 1 else ""
            title = "/".join(filter(None, (name, depth, direction)))
            roles = roles_of(kind, own_tensors(module), suffix)
            found.append(Part(title, kind, module, roles, channels_first=False, settings=settings))
    return found


def _convolution(module: Any) -> dict[str, Any]:
    padding = module.padding
    if type(module).__name__.endswith("Same"):  # timm's, which pads in forward()
        padding = "same"
    if not isinstance(padding, str):
        padding = tuple((side, side) for side in padding) if any(padding) else "valid"
    settings = {
        "strides": tuple(module.stride),
        "dilation": tuple(module.dilation),
        "groups": module.groups,
        "padding": padding,
    }
    if module.padding_mode != "zeros":
        settings["padding_mode"] = module.padding_mode
    if any(module.output_padding):
        settings["output_padding"] = tuple(module.output_padding)
    return settings


def _layer_norm(module: Any) -> dict[str, Any]:
    return {"eps": module.eps}


def _group_norm(module: Any) -> dict[str, Any]:
    return {"eps": module.eps, "groups": module.num_groups}


_SETTINGS: Final = {
    "conv": _convolution,
    "conv_transpose": _convolution,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
}


def _home(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _require_shapes(module: nn.Module, name: str) -> None:
    from torch.nn.parameter import is_lazy

    if any(map(is_lazy, own_tensors(module).values())):
        raise UnsaidError(
            explain(
                asked=f"read the layer {name!r}",
                got=f"a {_home(module)}",
                why="a lazy layer has no shapes before its first input",
                do="run the model once on an example, in eval mode to keep the statistics",
            )
        )
