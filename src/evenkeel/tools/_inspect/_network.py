"""Rows of layers that a dialect has read: from files, and from models that are no torch modules."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from evenkeel.dialects._layers import layer_state
from evenkeel.tools._inspect._rules import Subject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evenkeel.dialects._layers import Layer
    from evenkeel.spec import Spec
    from evenkeel.tools._inspect._records import Mode

_MODELS: Final = {
    "keras": (("keras", "Model"),),
    "flax": (("flax.nnx", "Module"), ("flax.linen", "Module")),
    "onnx": (("onnx", "ModelProto"),),
    "torch": (("torch.nn", "Module"),),
}
_CLASSES: Final = {
    "keras": "BatchNormalization",
    "flax": "BatchNorm",
    "onnx": "BatchNormalization",
}


def framework_of_model(model: object) -> str:
    """The framework of a live model, empty if it is none.

    A framework that was never imported has built no model. Keras comes first, because on its
    torch backend a Keras model is a torch module, too.
    """
    subject = model[0] if isinstance(model, tuple) and len(model) == 2 else model
    for framework, homes in _MODELS.items():
        for home, kind in homes:
            module = sys.modules.get(home)
            if module is not None and isinstance(subject, getattr(module, kind, ())):
                return framework
    return ""


def subjects_of(layers: Iterable[Layer], framework: str, *, live: bool) -> list[Subject]:
    """The batch-norm layers as the rules see them."""
    return [
        Subject(
            layer.name,
            layer.spec,
            layer_state(layer),
            _mode(layer.spec, framework) if live else None,
            layer.assumed,
            framework=framework,
        )
        for layer in layers
        if layer.spec is not None
    ]


def class_of(spec: Spec | None, framework: str) -> str:
    """Name of the layer's class, of a live model."""
    own: Any = spec.options.get("class") if spec else None
    return str(own).rpartition(".")[2] if own else _CLASSES.get(framework, "batch norm")


def _mode(spec: Spec, framework: str) -> Mode:
    if spec.statistics_frozen:
        return "frozen"
    uses_average = spec.options.get("use_running_average")
    if isinstance(uses_average, bool):
        return "eval" if uses_average else "train"
    return "eval" if framework == "onnx" else "call"
