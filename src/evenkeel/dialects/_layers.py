"""What a whole network is made of, in one layout for all frameworks.

The canonical layout is the one that Keras and Flax share. ``k`` stands for one size per spatial
axis, ``u`` for units; every role that a layer lacks is absent from ``arrays``.

=================  ===============================================================================
kind               roles and shapes; settings
=================  ===============================================================================
``dense``          ``kernel`` (in, out), ``bias`` (out)
``conv``           ``kernel`` (*k, in / groups, out), ``bias`` (out); ``strides``, ``dilation``,
                   ``groups``, ``padding``. A depthwise convolution is one with groups = in:
                   its kernel is (*k, 1, in * multiplier), input channel by input channel
``conv_transpose`` ``kernel`` (*k, out, in), ``bias`` (out); as ``conv``
``embedding``      ``embedding`` (vocabulary, features)
``layer_norm``     ``scale``, ``offset`` (normalized shape); ``eps``
``group_norm``     ``scale``, ``offset`` (C,); ``eps``, ``groups``
``batch_norm``     ``weight``, ``bias``, ``running_mean``, ``running_var`` (C,), ``batches`` (),
                   further ones under the names of :attr:`evenkeel.State.others`; see ``spec``
``prelu``          ``alpha`` (C,)
``lstm``           ``kernel`` (in, 4u), ``recurrent`` (u, 4u), ``bias`` (4u); gates i, f, c, o
``gru``            ``kernel`` (in, 3u), ``recurrent`` (u, 3u), ``bias`` (2, 3u) with
                   ``reset_after`` True, else (3u); gates z, r, h; ``reset_after``
``simple_rnn``     ``kernel`` (in, u), ``recurrent`` (u, u), ``bias`` (u)
``normalization``  ``mean``, ``variance``: a preprocessing layer
``rescaling``      no arrays; ``scale``, ``offset``: a preprocessing layer
``other``          arrays by the framework's own names; ``class``: unknown, never converted
=================  ===============================================================================

``padding`` is ``"valid"``, ``"same"``, ``"causal"``, or one (before, after) per spatial axis.
A separable convolution is two layers, ``<name>/depthwise`` and ``<name>/pointwise``; a
bidirectional one is ``<name>/forward`` and ``<name>/backward``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evenkeel.checkpoints import StoredArray

if TYPE_CHECKING:
    from evenkeel.spec import Spec, State

Kind: TypeAlias = Literal[
    "dense",
    "conv",
    "conv_transpose",
    "embedding",
    "layer_norm",
    "group_norm",
    "batch_norm",
    "prelu",
    "lstm",
    "gru",
    "simple_rnn",
    "normalization",
    "rescaling",
    "other",
]
#: Canonical arrays of a network: layer name, then role.
Values: TypeAlias = Mapping[str, Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a network, its arrays in the canonical layout and read on demand.

    Args:
        name: of the layer in its own framework, unique in its network.
        kind: what it computes; decides roles, layouts and settings.
        arrays: by role.
        settings: what the kind needs to know, by the names of the table above.
        spec: the description, of a ``batch_norm`` only.
        assumed: fields of ``spec`` that the source does not store.
        trainable: whether the layer's parameters are trained.
    """

    name: str
    kind: Kind
    arrays: Mapping[str, StoredArray]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    spec: Spec | None = None
    assumed: tuple[str, ...] = ()
    trainable: bool = True

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by role."""
        return {role: array.shape for role, array in self.arrays.items()}


@dataclass(frozen=True, slots=True)
class StoredNetwork:
    """What a dialect understands of a checkpoint.

    Args:
        dialect: ``"torch"``, ``"keras"``, ``"flax"`` or ``"onnx"``.
        layers: in the order of the file, or of the graph where the file has one.
        unread: names of arrays that belong to no layer that is known.
        remarks: what else the reader wants to be known, in whole sentences.
    """

    dialect: str
    layers: tuple[Layer, ...]
    unread: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def stored(array: NDArray[Any], dtype: str | None = None) -> StoredArray:
    """An array that is at hand, as one that is read on demand."""
    return StoredArray(array.shape, dtype or array.dtype.name, lambda: array)


def state_arrays(state: State) -> dict[str, StoredArray]:
    """The arrays of a batch-norm layer by role; the counter is an int64 of shape ()."""
    arrays = {role: stored(array) for role, array in state.arrays().items()}
    if state.batches is not None:
        arrays["batches"] = stored(np.asarray(state.batches, np.int64))
    return arrays


def layer_state(layer: Layer) -> State:
    """The state of a ``batch_norm`` layer."""
    from evenkeel.spec import State

    values = {role: array.read() for role, array in layer.arrays.items()}
    named = [values.pop(role, None) for role in ("weight", "bias", "running_mean", "running_var")]
    batches = values.pop("batches", None)
    count = None if batches is None else int(batches.reshape(()))
    return State(*named, batches=count, others=values)
