"""Adopts the layers and blocks of a model, and says what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evenkeel.errors import EvenkeelError, explain
from evenkeel.nn._base import NormCore
from evenkeel.spec import IDENTITY
from evenkeel.tools._adopt._blocks import fuse_blocks
from evenkeel.tools._adopt._classes import become_ours, original_class
from evenkeel.tools._adopt._find import batch_norms, reason_against
from evenkeel.tools._adopt._followed import PLAIN
from evenkeel.tools._adopt._pairs import kind_of_pair, prove_pair
from evenkeel.tools._adopt._records import Adopted
from evenkeel.tools._adopt._sites import Site
from evenkeel.tools._adopt._timm import NormAct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was done to a model.

    Args:
        rows: of the report.
        fused: every adopted layer -> what each of its calls is fused with, or why it is not.
        changed: layers whose class is another one now.
    """

    rows: tuple[Adopted, ...]
    fused: Mapping[nn.Module, list[Site | str]]
    changed: frozenset[nn.Module]


def adopt_layers(model: nn.Module, *, fuse: bool) -> Found:
    """Give every batch norm that allows it evenkeel's class, and fuse what follows."""
    layers = list(batch_norms(model))
    reasons = {layer: _reason(layer) for _, layer in layers}
    kinds = {layer: (original_class(layer) or type(layer)).__name__ for _, layer in layers}
    changed = [m for m, why in reasons.items() if not why and not isinstance(m, NormCore)]
    for layer in changed:
        become_ours(layer)
    plain = {layer for layer in reasons if isinstance(layer, PLAIN) or _is_bare(layer)}
    fused = fuse_blocks(model, plain) if fuse else {layer: [] for layer in plain}
    rows = [_row(name, m, kinds[m], reasons[m], fused.get(m, []), fuse=fuse) for name, m in layers]
    return Found(tuple(rows), fused, frozenset(changed))


def check_pairs(found: Found) -> int:
    """Compare each distinct kind of layer, with what is fused with it, to the original one.

    Returns:
        How many kinds there are.

    Raises:
        EvenkeelError: one differs.
    """
    kinds: dict[Any, tuple[nn.Module, Site | None]] = {}
    for layer in {*found.changed, *found.fused}:
        sites = [one for one in found.fused.get(layer, ()) if isinstance(one, Site)]
        alone = [None] if layer in found.changed and not sites else []
        for site in (*sites, *alone):
            if not any(tensor.is_meta for tensor in (*layer.parameters(), *layer.buffers())):
                kinds.setdefault(kind_of_pair(layer, site), (layer, site))
    for layer, site in kinds.values():
        proof = prove_pair(layer, site, was_torch=layer in found.changed)
        if not proof.holds:
            worst = proof.worst
            raise EvenkeelError(
                explain(
                    asked="adopt a model without changing its results",
                    got=f"{layer} + {site.partners if site else 'nothing'}, whose {worst.item} is "
                    f"off by {worst.error:.2e} where {worst.bound:.2e} is allowed",
                    why="one pass does not compute what the layers one after the other compute; "
                    "the model was left as it was",
                    do="please report it with the text above",
                )
            )
    return len(kinds)


def _is_bare(layer: nn.Module) -> bool:
    """Whether it is a layer of timm's that has no activation inside."""
    return isinstance(layer, NormAct) and layer.activation_inside() == IDENTITY


def _reason(layer: nn.Module) -> str:
    if isinstance(layer, (*PLAIN, NormAct)):
        return ""
    return "evenkeel's own" if isinstance(layer, NormCore) else reason_against(layer)


def _row(
    name: str,
    layer: nn.Module,
    kind: str,
    reason: str,
    outcomes: list[Site | str],
    *,
    fuse: bool,
) -> Adopted:
    if reason:
        return Adopted(name, kind, (), reason, adopted=False)
    if isinstance(layer, NormAct) and not _is_bare(layer):
        return _row_with_activation(name, layer, kind)
    fused = tuple(dict.fromkeys(one.partners for one in outcomes if isinstance(one, Site)))
    reasons = [one for one in outcomes if isinstance(one, str)]
    if fused or not fuse:
        return Adopted(name, kind, fused)
    # The outermost block decides about what an inner one returns.
    return Adopted(name, kind, fused, reasons[-1] if reasons else "no code of its block calls it")


def _row_with_activation(name: str, layer: NormAct, kind: str) -> Adopted:
    inside = layer.activation_inside()
    if inside is None:
        return Adopted(name, kind, (), f"its {type(layer.act).__name__} is no kernel's activation")
    return Adopted(name, kind, (inside.name,))
