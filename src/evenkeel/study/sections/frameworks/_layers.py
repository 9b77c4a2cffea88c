"""The batch-norm layer of an arm, in the framework where the arm trains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evenkeel.spec import State
from evenkeel.study.sections.frameworks._plan import ORIGINS

if TYPE_CHECKING:
    from evenkeel.spec import Spec
    from evenkeel.study.sections.frameworks._plan import Arm


def norm_layer(arm: Arm, channels: int) -> Any:  # noqa: ANN401 - a layer of the arm's framework
    """A fresh layer with the settings of the origin, translated or copied as numbers."""
    spec = replace(ORIGINS[arm.origin], channels=channels)
    return _copied(arm, spec) if arm.settings == "copied" else _translated(arm, spec)


def _translated(arm: Arm, spec: Spec) -> Any:  # noqa: ANN401 - as above
    state = replace(State.initial(spec), batches=None)
    if arm.framework == "torch":
        from evenkeel.dialects import torch as dialect

        return dialect.build_module(spec, State.initial(spec))
    if arm.framework == "keras":
        from evenkeel.dialects import keras as dialect
        from evenkeel.integrations.keras import BatchNormalization

        kind = BatchNormalization if arm.settings == "translated" else None
        return dialect.build_module(replace(spec, rank=2), state, kind)
    from evenkeel.dialects import flax as dialect
    from evenkeel.integrations.flax import BatchNorm

    return dialect.build_module(spec, state, BatchNorm)


def _copied(arm: Arm, spec: Spec) -> Any:  # noqa: ANN401 - as above
    number: Any = spec.momentum.value
    if arm.framework == "torch":
        from torch import nn

        return nn.BatchNorm1d(spec.channels, eps=spec.eps, momentum=number)
    if arm.framework == "keras":
        import keras

        return keras.layers.BatchNormalization(epsilon=spec.eps, momentum=number)
    from flax import nnx

    return nnx.BatchNorm(spec.channels, epsilon=spec.eps, momentum=number, rngs=nnx.Rngs(0))
