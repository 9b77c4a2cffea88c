"""``compare``: whether two networks are equal, in inference and over training steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenkeel.errors import InputError, explain
from evenkeel.tools._compare._causes import inference_causes
from evenkeel.tools._compare._inference import compare_inference
from evenkeel.tools._compare._losses import choose_loss
from evenkeel.tools._compare._records import Comparison
from evenkeel.tools._compare._sides import opened_sides
from evenkeel.tools._compare._step import find_sums
from evenkeel.tools._compare._training import prove
from evenkeel.tools._compare._training_causes import free_causes, training_causes
from evenkeel.tools._compare._updates import checked_rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from evenkeel.dialects._network import Loss
    from evenkeel.spec import Spec
    from evenkeel.tools._compare._losses import LossWithTargets
    from evenkeel.tools._compare._records import Cause, ComparisonRow
    from evenkeel.tools._compare._sides import Sides
    from evenkeel.tools._compare._training import Proof


def compare(
    a: Any,  # noqa: ANN401 - a model of any framework
    b: Any,  # noqa: ANN401 - likewise
    inputs: NDArray[Any] | tuple[NDArray[Any], NDArray[Any]],
    steps: int = 0,
    *,
    loss: Loss | LossWithTargets | None = None,
    targets: NDArray[Any] | None = None,
    mapping: Mapping[str, str] | None = None,
    optimizer: str | Sequence[str] = ("sgd", "adam"),
    inference: bool = True,
) -> Comparison:
    r"""Compare two networks layer by layer, in inference and over training steps.

    *Inference.* With :math:`A` the float64 result of a, :math:`a` and :math:`b` the float32
    results of both, every output of a layer has to satisfy

    .. math:: |b - A| \le 4 \max(|a - A|,\; u \max|A|,\; \tfrac{u}{w} |B - A|),
              \qquad |B - A| \le 2^{13}\, \tfrac{w}{u} \max(|a - A|,\; u \max|A|)

    with :math:`u = 2^{-24}`, :math:`w = 2^{-53}` and :math:`B` the float64 result of b: the same
    function, computed at most four times less exactly than by a. The module
    ``evenkeel.tools._compare._bound`` derives the terms. A bias in front of batch norm that only
    one network has, absorbed by the running mean of the other, is taken off before.

    *Training, step by step.* Before each step both sides are set to the state of a. Output, loss,
    the gradient of every parameter and the new running statistics have to satisfy the same law.
    The update to the next state is a written rule in float64 (SGD with momentum 0.9 and rate
    0.01; Adam with rate 0.001), applied to the float64 gradients of a. Step t uses half of the
    samples (all where there are fewer than 4), drawn with a seed that depends on t only. Where a
    gradient jumps within rounding (an activation or a maximum at its kink), another batch is
    drawn, and that is remarked; no bound is widened.

    *Training, free run.* Both sides start from the state of a and follow their own gradients in
    float64 with the same rule. Loss, parameters and statistics have to agree within
    :math:`10^{-7}` of their size after every step. It runs where all single steps agree.

    A parameter whose gradient is mathematically zero (the bias of a convolution before batch
    norm) is named, and its gradient only has to be as small as rounding makes it:
    :math:`|b| \le 4 \max(|a|, \tfrac{u}{w}|A|, \tfrac{u}{w}|B|, u \sqrt n\, |k| / |x|)`,
    where n is the number of terms of its sum, k the gradient of the layer's kernel and x the
    layer's input.

    Both networks are as they were when this returns or raises.

    Args:
        a: the source: a live model, the path of a ``.keras`` or ``.onnx`` file, or a network that
            ``evenkeel.dialects`` opened (a remote one, for a second Keras backend).
        b: the target, likewise.
        inputs: samples in a's own layout, or a pair, in a's layout and in b's.
        steps: of training; 0 for inference only.
        loss: of the output (channels last) as ``(loss, gradient)``; with ``targets`` it gets
            those of the same samples as second argument. None: cross entropy with integer
            ``targets``, else half the mean squared error; without ``targets`` against fixed
            random ones.
        targets: one for each sample, channels last.
        mapping: names of layers in a -> names in b, where the matching needs help.
        optimizer: ``"sgd"``, ``"adam"``, or both.
        inference: whether to compare inference, from the states that the networks have.

    Returns:
        The comparison: ``.equal``, ``.first_difference``, ``.causes``, ``.rows``, ``.to_dict()``.

    Raises:
        InputError: the networks cannot be matched or run on these inputs, or neither has float64.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
        >>> one = nn.Sequential(*layers)
        >>> two = nn.Sequential(nn.Sequential(*layers[:2]), *layers[2:])
        >>> x = np.random.default_rng(0).standard_normal((8, 3, 6, 6)).astype(np.float32)
        >>> compare(one, two, x, steps=2).equal
        True
    """
    rules = checked_rules(optimizer)
    if steps < 0 or not (inference or steps):
        raise InputError(
            explain(
                asked="compare two networks",
                got=f"steps={steps}, inference={inference}",
                why="there has to be something to compare",
                do="pass inference=True, or a positive number of steps",
            )
        )
    with opened_sides(a, b, inputs, mapping) as sides:
        rows: list[ComparisonRow] = []
        causes: list[Cause] = []
        remarks = [*_matching_remarks(sides), *sides.a.remarks, *sides.b.remarks]
        if inference:
            found = compare_inference(sides)
            rows += found.rows()
            causes += inference_causes(sides, found, sides.a.start, sides.b.start)
            remarks += found.remarks
        if steps:
            trace = sides.a.trace(sides.inputs_a)
            losses = choose_loss(loss, targets, trace.output)
            kinds = {layer.name: layer.kind for layer in sides.a.layers().values()}
            sums = find_sums(trace, kinds)
            for rule in rules:
                proof = prove(sides, losses, steps, rule, sums)
                rows += proof.rows.values()
                causes += training_causes(sides, proof) or free_causes(proof)
                remarks += _proof_remarks(proof)
        return Comparison(
            sides.a.framework,
            sides.b.framework,
            steps,
            tuple(rows),
            _distinct(causes),
            tuple(dict.fromkeys(remarks)),
        )


def _matching_remarks(sides: Sides) -> list[str]:
    """What one network has and the other has not, and settings that differ."""
    matching = sides.matching
    remarks = list(matching.remarks)
    if settings := list(_different_settings(sides)):
        remarks.append(f"Batch-norm settings that differ: {'; '.join(settings)}.")
    if matching.absorbed:
        listed = ", ".join(f"{layer} into {norm}" for layer, norm in matching.absorbed)
        remarks.append(f"A bias that b lacks is absorbed into a running mean: {listed}.")
    if matching.made:
        remarks.append(f"Only in b, so not trained here: {', '.join(matching.made)}.")
    if matching.preprocessing:
        listed = ", ".join(layer.name for layer in matching.preprocessing)
        remarks.append(f"Only in a: {listed}; its inputs have to be prepared for b (a pair).")
    return remarks


def _different_settings(sides: Sides) -> Iterator[str]:
    """Batch-norm settings of one layer that are not those of its partner."""
    for pair in sides.matching.pairs:
        one, two = pair.source.spec, pair.target.spec
        if one is None or two is None:
            continue
        said = {
            "eps": (f"{one.eps:g}", f"{two.eps:g}"),
            "momentum": tuple(_weight_of_new(spec) for spec in (one, two)),
            "variance": (one.variance, two.variance),
        }
        different = [f"{name} {a} in a, {b} in b" for name, (a, b) in said.items() if a != b]
        if different:
            yield f"{pair.source.name}: {', '.join(different)}"


def _weight_of_new(spec: Spec) -> str:
    value = spec.momentum.as_weighing("new").value
    return "cumulative" if value is None else f"{value:g} (of the new value)"


def _proof_remarks(proof: Proof) -> list[str]:
    remarks = list(proof.remarks)
    if proof.zero:
        remarks.append(
            f"Mathematically zero gradient, so that all of it is rounding: {', '.join(proof.zero)}."
        )
    if proof.failed is not None:
        remarks.append("The free run was left out, because single steps differ already.")
    return remarks


def _distinct(causes: Iterable[Cause]) -> tuple[Cause, ...]:
    """One of each code and layer; an unknown cause only where nothing else is known."""
    found: dict[tuple[str, str], Cause] = {}
    for cause in causes:
        found.setdefault((cause.code, cause.layer), cause)
    known = tuple(cause for cause in found.values() if cause.code != "unknown")
    return known or tuple(found.values())[:1]
