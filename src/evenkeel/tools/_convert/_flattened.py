"""Whether a dense layer may stand behind a flattened picture, as far as a file tells.

Flattened, a picture has its values in another order with channels first than with channels last;
the rows of the dense layer behind it go with them. A file of weights does not say where a network
flattens, and many formats sort their layers by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.dialects._layers import Layer

#: Kinds that leave the number of features as it is.
_SAME_WIDTH: Final = ("batch_norm", "layer_norm", "group_norm", "prelu")


@dataclass(frozen=True, slots=True)
class Doubt:
    """A dense layer whose inputs may be a flattened picture.

    Args:
        rows: its inputs.
        channels: widths of convolutions that could come before, the likeliest first.
        plain: another layer has just as many outputs, so that it more likely follows that one.
    """

    rows: int
    channels: tuple[int, ...]
    plain: bool

    def picture(self) -> str:
        """Sizes that would fit, square where possible."""
        places = self.rows // self.channels[0]
        height = math.isqrt(places) if math.isqrt(places) ** 2 == places else 1
        return f"{height}x{places // height}x{self.channels[0]}"


def doubt(layer: Layer, layers: Sequence[Layer], *, ordered: bool) -> Doubt | None:
    """What is not known about the rows of a layer, None where there is no doubt.

    Args:
        layer: one of ``layers``.
        layers: of the whole file.
        ordered: whether they stand in the order of the model.
    """
    if layer.kind != "dense":
        return None
    rows = layer.shapes["kernel"][0]
    before = _layer_before(layer, layers) if ordered else None
    width = None if before is None else _outputs(before)
    if width == rows:
        return None
    convolutions = [la for la in layers if la.kind in {"conv", "conv_transpose"}]
    if before in convolutions:
        convolutions = [before]
    widths = {w for la in convolutions if (w := _outputs(la)) and rows > w and rows % w == 0}
    if not widths:
        return None
    plain = not ordered and any(_outputs(la) == rows for la in layers if la is not layer)
    return Doubt(rows, tuple(sorted(widths, reverse=True)), plain)


def _layer_before(layer: Layer, layers: Sequence[Layer]) -> Layer | None:
    at = next(number for number, other in enumerate(layers) if other is layer)
    before = (la for la in reversed(layers[:at]) if la.kind not in _SAME_WIDTH)
    return next(before, None)


def _outputs(layer: Layer) -> int | None:
    if layer.kind in {"dense", "conv"}:
        return layer.shapes["kernel"][-1]
    return layer.shapes["kernel"][-2] if layer.kind == "conv_transpose" else None
