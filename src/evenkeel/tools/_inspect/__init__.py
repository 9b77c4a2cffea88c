"""``inspect``: every batch-norm layer of a model or checkpoint, and what is suspicious in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from evenkeel import checkpoints
from evenkeel.dialects import torch as dialect
from evenkeel.dialects._open import open_network
from evenkeel.dialects._stored_specs import stored_specs
from evenkeel.errors import EvenkeelError, InputError, explain
from evenkeel.tools._convert._formats import dialect_of, framework_of
from evenkeel.tools._describe import describe
from evenkeel.tools._inspect._counts import count
from evenkeel.tools._inspect._network import class_of, framework_of_model, subjects_of
from evenkeel.tools._inspect._records import Finding, Inspection, LayerRow, Mode, Range
from evenkeel.tools._inspect._rules import Subject, judge

if TYPE_CHECKING:
    from torch import nn

    from evenkeel.spec import Spec, State

T = TypeVar("T")
_ARRAYS = ("weight", "bias", "running_mean", "running_var")


def inspect(model_or_path: object) -> Inspection:
    """List the batch-norm layers of a model, a checkpoint or a state dict, with what is suspicious.

    Nothing is run and nothing is changed: not the mode, no counter, no random state.

    Args:
        model_or_path: a model of torch, Keras, Flax (an NNX module, or a pair of a Linen module
            and its variables) or ONNX; the path of any checkpoint that is read here; or a torch
            state dict. A layer that a model uses in several places is listed once.

    Returns:
        The rows and findings. Momentum is listed as stored, with the side that it weighs: the
        new value in torch, the stored one in Keras, Flax and ONNX.

    Raises:
        FileError: the file cannot be used.
        InputError: the argument is none of these.

    Example:
        >>> from torch import nn
        >>> report = inspect(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.99)))
        >>> report.rows[0].channels, report.findings[-1].code
        (8, 'momentum')
    """
    if isinstance(model_or_path, str | os.PathLike):
        return _inspect_file(Path(cast("str", model_or_path)))
    if isinstance(model_or_path, Mapping):
        arrays = cast("Mapping[str, Any]", model_or_path)
        return _inspect_arrays("state dict", arrays, ())
    framework = framework_of_model(model_or_path)
    if framework == "torch":
        return _inspect_model(cast("nn.Module", model_or_path))
    if framework:
        return _inspect_live(model_or_path)
    raise InputError(
        explain(
            asked="inspect batch-norm layers",
            got=describe(model_or_path),
            why="it is no model of torch, Keras, Flax or ONNX, no path of a checkpoint, and no "
            "state dict",
            do="pass the model itself, or the path of a checkpoint",
        )
    )


def _inspect_model(model: nn.Module) -> Inspection:
    layers = [(n, m) for n, m in model.named_modules() if dialect.is_batch_norm(m)]
    looked = [_look(name, module) for name, module in layers]
    subjects = [subject for subject, _ in looked]
    fresh = all(s.mode == "train" and not s.has_seen_data for s in subjects)
    rows = [_row(s, type(m).__name__, m) for s, (_, m) in zip(subjects, layers, strict=True)]
    findings = [
        finding
        for subject, troubles in looked
        for finding in (*troubles, *judge(replace(subject, fresh=fresh)))
    ]
    counts = count(subject.spec for subject in subjects if subject.spec is not None)
    return Inspection(type(model).__name__, tuple(rows), tuple(findings), counts=counts)


def _inspect_live(model: object) -> Inspection:
    """A model whose dialect reads it as a whole."""
    network = open_network(model)
    try:
        framework = network.framework.partition(" ")[0]
        subjects = subjects_of(network.layers(), framework, live=True)
    finally:
        network.close()
    subject = model[0] if isinstance(model, tuple) else model
    return _inspect_subjects(type(subject).__name__, subjects, framework)


def _inspect_subjects(
    source: str, subjects: list[Subject], framework: str, remarks: tuple[str, ...] = ()
) -> Inspection:
    # Where each call says whether it trains, a model without data is one that was just built.
    fresh = all(s.mode in {"train", "call"} and not s.has_seen_data for s in subjects)
    findings = [f for subject in subjects for f in judge(replace(subject, fresh=fresh))]
    rows = [
        _row(s, "batch norm" if s.mode is None else class_of(s.spec, framework), None)
        for s in subjects
    ]
    counts = count(subject.spec for subject in subjects if subject.spec is not None)
    return Inspection(source, tuple(rows), tuple(findings), remarks, framework, counts)


def _look(name: str, module: nn.Module) -> tuple[Subject, list[Finding]]:
    """Description and arrays, each as far as it can be read."""
    spec, troubles = _attempt(name, lambda: dialect.read_spec(module, name))
    state, more = _attempt(name, lambda: dialect.read_state(module, name))
    if more == troubles:  # the same reason twice, such as a lazy layer
        more = []
    return Subject(name, spec, state, _mode(module, spec)), troubles + more


def _inspect_file(path: Path) -> Inspection:
    checkpoint = checkpoints.read(path)
    remarks: list[str] = []
    if checkpoint.parts:
        remarks.append(f"read from {', '.join(checkpoint.parts)}")
    if checkpoint.left:
        remarks.append(f"not looked at: {', '.join(checkpoint.left)}")
    framework = framework_of(checkpoint)
    if framework == "torch":
        specs = stored_specs(checkpoint)
        return _inspect_arrays(str(path), checkpoint.arrays, tuple(remarks), specs)
    network = dialect_of(framework).read_network(checkpoint)
    subjects = subjects_of(network.layers, framework, live=False)
    return _inspect_subjects(str(path), subjects, framework, (*remarks, *network.remarks))


def _inspect_arrays(
    source: str,
    arrays: Mapping[str, Any],
    remarks: tuple[str, ...],
    specs: Mapping[str, Spec] | None = None,
) -> Inspection:
    rows: list[LayerRow] = []
    findings: list[Finding] = []
    found: list[Spec] = []
    for name in dialect.find_layers(arrays):
        layer, troubles = _attempt(name, lambda name=name: dialect.read_layer(arrays, name))
        subject = Subject(name, None, None, None)
        if layer is not None:
            told = (specs or {}).get(name)
            assumed = layer.assumed if told is None else ()
            subject = Subject(name, told or layer.spec, layer.state, None, assumed)
            found.append(subject.spec or layer.spec)
        rows.append(_row(subject, "batch norm", None))
        findings += [*troubles, *judge(subject)]
    return Inspection(source, tuple(rows), tuple(findings), remarks, counts=count(found))


def _attempt(name: str, read: Callable[[], T]) -> tuple[T | None, list[Finding]]:
    """The result, or None and why one layer cannot be read; the others still can."""
    try:
        return read(), []
    except EvenkeelError as error:
        reason = str(error).partition("why: ")[2].partition("\n  do:")[0] or str(error)
        severity = "note" if isinstance(error, dialect.UnsaidError) else "error"
        return None, [Finding(name, severity, "unreadable", " ".join(reason.split()))]


def _mode(module: nn.Module, spec: Spec | None) -> Mode:
    if spec is not None and spec.statistics_frozen:
        return "frozen"
    return "train" if module.training else "eval"


def _row(subject: Subject, kind: str, module: nn.Module | None) -> LayerRow:
    spec, state = subject.spec, subject.state
    ranges: dict[str, Any] = {name: _range(state, name) for name in _ARRAYS}
    row = LayerRow(subject.name, kind, mode=subject.mode, **ranges)
    parameters, buffers = _counts(state) if module is None else _counts_of(module)
    row = replace(row, parameters=parameters, buffers=buffers)
    if state is not None:
        channels = next((array.size for array in state.arrays().values()), None)
        row = replace(row, batches=state.batches, channels=channels)
    if spec is None:
        return row
    return replace(
        row,
        channels=spec.channels,
        eps=None if "eps" in subject.assumed else spec.eps,
        momentum=None if "momentum" in subject.assumed else spec.momentum,
        variance=None if "variance" in subject.assumed else spec.variance,
        affine=("weight",) * spec.scale + ("bias",) * spec.offset,
        parameter_dtype=spec.parameter_dtype if spec.scale or spec.offset else None,
        statistics_dtype=spec.statistics_dtype if spec.track_statistics else None,
    )


def _range(state: State | None, name: str) -> Range | None:
    values = getattr(state, name, None)
    if values is None:
        return None
    finite = np.asarray(values, np.float64)[np.isfinite(values)]
    return Range(float(finite.min()), float(finite.max())) if finite.size else None


def _counts(state: State | None) -> tuple[int, int]:
    """Numbers of parameters and buffers of the layer that a state dict belongs to."""
    if state is None:
        return 0, 0
    sizes = {name: array.size for name, array in state.arrays().items()}
    parameters = sizes.get("weight", 0) + sizes.get("bias", 0)
    return parameters, sum(sizes.values()) - parameters + (state.batches is not None)


def _counts_of(module: nn.Module) -> tuple[int, int]:
    """As torch counts them: 2C parameters and 2C + 1 buffers of a plain layer."""
    from torch.nn.parameter import is_lazy

    counts = [
        sum(tensor.numel() for tensor in tensors if not is_lazy(tensor))
        for tensors in (module.parameters(), module.buffers())
    ]
    return counts[0], counts[1]
