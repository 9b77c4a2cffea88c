"""What a framework cannot say about a batch-norm layer, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from evenkeel.errors import UnsayableError, explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.spec import Spec

#: What would be different if the field were left out.
Effect: TypeAlias = Literal["none", "training", "inference"]

#: Options of Flax that no number depends on beyond rounding.
HARMLESS: Final = ("use_fast_variance", "force_float32_reductions")


@dataclass(frozen=True, slots=True)
class Unsayable:
    """One field that a framework's layer or file cannot hold.

    Args:
        field: of :class:`evenkeel.Spec` or :class:`evenkeel.State` (``"batches"``, ...).
        value: what the layer says there.
        why: what the framework does instead.
        do: what keeps the meaning, such as a layer of ``evenkeel.integrations``.
        effect: ``"inference"``: even the output in inference would differ; ``"training"``: only
            further training would; ``"none"``: no computation reads the field.
    """

    field: str
    value: Any
    why: str
    do: str
    effect: Effect


def refuse(spec: Spec, framework: str, found: Sequence[Unsayable]) -> None:
    """Raise for all fields at once; nothing where ``found`` is empty.

    Raises:
        UnsayableError: it names every field with its value.
    """
    if not found:
        return
    name = f" {spec.name!r}" if spec.name else ""
    raise UnsayableError(
        explain(
            asked=f"write the batch-norm layer{name} for {framework}",
            got=", ".join(f"{item.field}={item.value!r}" for item in found),
            why="; ".join(f"{item.field}: {item.why}" for item in found),
            do="; ".join(dict.fromkeys(item.do for item in found)),
        )
    )
