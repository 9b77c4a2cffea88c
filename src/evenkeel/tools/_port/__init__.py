"""``port``: the weights of a live network into another framework's network."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from evenkeel.dialects._open import open_network
from evenkeel.errors import EvenkeelWarning, InputError, explain
from evenkeel.tools._matching import match
from evenkeel.tools._matching._pairs import state_of
from evenkeel.tools._matching._runs import require_finite, traced
from evenkeel.tools._port._proof import first_difference, prove, run_both
from evenkeel.tools._port._records import Port, Proof, SettingDifference
from evenkeel.tools._port._settings import Purpose, apply_settings, find_differences, remaining
from evenkeel.tools._port._snapshot import Snapshot
from evenkeel.tools._port._table import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from evenkeel.dialects._network import Network

Settings: TypeAlias = Literal["warn", "source", "target"]


def port(
    source_model: Any,  # noqa: ANN401 - a model of any framework
    target_model: Any,  # noqa: ANN401
    example: NDArray[Any],
    *,
    mapping: Mapping[str, str] | None = None,
    settings: Settings = "warn",
    purpose: Purpose = "training",
) -> Port:
    """Carry the weights and statistics of one live network into another, and prove it.

    Layers are matched by kind, shape and order of execution, and by what runs of both show;
    their authors may have named them differently. The target is changed in place. If anything
    fails, it is exactly what it was before.

    Args:
        source_model: a ``torch.nn.Module``, ``keras.Model``, ``flax.nnx.Module``, or a pair
            (``flax.linen.Module``, variables). It is not changed.
        target_model: likewise; it gets the values.
        example: a batch of inputs as the source takes it (its own layout).
        mapping: name of a layer in the source -> name in the target, for layers that the
            matching cannot tell apart; see ``Network.layers()`` and the printed report.
        settings: what to do where eps, momentum or variance convention of a batch norm differ:
            ``"source"`` makes the target mean what the source says, ``"target"`` keeps the
            target's, ``"warn"`` keeps them and warns. Another eps changes the outputs, so that
            the proof holds with ``"source"`` alone.
        purpose: ``"inference"`` lets settings stand that only training reads and that the
            target's layers cannot say; they are listed. ``"training"`` refuses them.

    Returns:
        The report: ``.model``, ``.matching``, ``.proof``, ``.undo()``, ``.to_dict()``; it
        prints as a table.

    Raises:
        InputError: layers have no counterpart, or are ambiguous; or the outputs differ by more
            than 4 times the source's own float32 error. The message names the first layer that
            differs.
        UnsayableError: ``settings="source"`` and the target's framework cannot say them.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> def build():
        ...     return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> done = port(build(), build(), np.ones((1, 3, 8, 8), np.float32))
        >>> done.proof.holds
        True
    """
    _require_choice("settings", settings, get_args(Settings))
    _require_choice("purpose", purpose, get_args(Purpose))
    source, target = open_network(source_model), open_network(target_model)
    try:
        inputs = source.canonical_inputs(np.asarray(example))
        snapshot = Snapshot(target_model, target)
        try:
            choice = (settings, purpose)
            return _port(source, target, target_model, inputs, mapping, choice, snapshot)
        except BaseException:
            snapshot.restore()
            raise
    finally:
        source.close()


def _port(
    source: Network,
    target: Network,
    model: Any,  # noqa: ANN401 - a model of any framework
    inputs: NDArray[Any],
    mapping: Mapping[str, str] | None,
    choice: tuple[Settings, Purpose],
    snapshot: Snapshot,
) -> Port:
    settings, purpose = choice
    matching = match(source, target, inputs, mapping)
    differences = find_differences(matching)
    if not matching.agrees:
        require_finite(traced(source, inputs), inputs)  # NaN agrees with nothing
        raise _refusal(matching.difference, differences, settings)
    if settings == "source":
        apply_settings(target, matching, purpose)
    target.write(matching.to_target(state_of(source.layers())))
    differences = remaining(differences, matching, target.layers())
    outputs = run_both(matching, source, target, inputs)
    proof = prove(matching, source, target, outputs)
    if not proof.holds:
        raise _refusal(first_difference(matching, outputs), differences, settings, proof)
    frozen = snapshot.freeze(model, matching.made_roles)
    if settings == "warn" and purpose == "training":
        _warn(differences)
    frameworks = (source.framework, target.framework)
    return Port(
        model,
        frameworks,
        matching,
        proof,
        differences,
        frozen,
        matching.remarks,
        snapshot.restore,
    )


def _warn(differences: tuple[SettingDifference, ...]) -> None:
    by_setting: dict[tuple[str, str, str], list[str]] = {}
    for item in differences:
        key = (item.field, str(item.wanted), str(item.found))
        by_setting.setdefault(key, []).append(item.target)
    if not by_setting:
        return
    told = "; ".join(
        f"{field} is {wanted} in the source and {found} in the target ({shortened(names)})"
        for (field, wanted, found), names in by_setting.items()
    )
    warnings.warn(
        f"further training will differ from the source's: {told}. settings='source' makes the "
        "target mean what the source says, settings='target' keeps the target's silently",
        EvenkeelWarning,
        stacklevel=4,
    )


def _refusal(
    where: str,
    differences: tuple[SettingDifference, ...],
    settings: Settings,
    proof: Proof | None = None,
) -> InputError:
    measured = where
    if proof is not None:
        measured = (
            f"outputs that differ by {proof.target_error:.2e} where {proof.bound:.2e} is allowed; "
            f"{where}"
        )
    eps = [item for item in differences if item.effect == "inference" and not item.repaired]
    do = "compare the two definitions there (padding, strides, activation, pooling)"
    if eps and settings != "source":
        told = f"eps is {eps[0].wanted} in the source and {eps[0].found} in the target"
        names = shortened([item.target for item in eps])
        measured += f"; {told} ({names}), which changes the outputs"
        do = "pass settings='source', or build the target with the source's eps"
    return InputError(
        explain(
            asked="port one network into another",
            got=measured,
            why="the target does not compute what the source computes, and was left as it was",
            do=do,
        )
    )


def _require_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            explain(
                asked="port one network into another",
                got=f"{name}={value!r}",
                why=f"known are {', '.join(map(repr, known))}",
                do="choose one of them",
            )
        )
