"""Which dialect a live model speaks."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, Final

from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from evenkeel.dialects._network import Network

#: Framework whose model class is looked for -> (its dialect, name of the class).
#: Keras first, because on its torch backend a Keras model is a torch module, too.
_MODELS: Final = (
    ("keras", "keras", "keras", "Model"),
    ("flax.nnx", "flax", "flax.nnx", "Module"),
    ("flax.linen", "flax", "flax.linen", "Module"),
    ("onnx", "onnx", "onnx", "ModelProto"),
    ("torch", "torch", "torch.nn", "Module"),
)


def open_network(model: Any) -> Network:
    """The network interface of a live model.

    Args:
        model: a ``torch.nn.Module``, ``keras.Model``, ``flax.nnx.Module``, an
            ``onnx.ModelProto``, or a pair (``flax.linen.Module``, variables).

    Raises:
        InputError: it is none of these.
    """
    # A Linen module holds no arrays; they come beside it.
    subject: Any = model[0] if isinstance(model, tuple) and model else model
    for loaded, dialect, home, kind in _MODELS:
        # A framework that was never imported has built no model.
        if loaded in sys.modules and isinstance(subject, getattr(sys.modules[home], kind)):
            return importlib.import_module(f"evenkeel.dialects.{dialect}").open_network(model)
    raise InputError(
        explain(
            asked="open a model",
            got=f"a {type(model).__module__}.{type(model).__qualname__}",
            why="it is no model of torch, Keras, Flax or ONNX",
            do="pass a torch.nn.Module, a keras.Model, a flax.nnx.Module, (linen module, "
            "variables), or what onnx.load returns",
        )
    )
