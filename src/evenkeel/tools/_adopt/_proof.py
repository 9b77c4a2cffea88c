"""The measured proof that adopting changed no result.

Outputs, gradients of all parameters and inputs, statistics and counters, in training and in
evaluation mode, before and after, in float32 and in float64; judged by the law of
:mod:`evenkeel.tools._compare._bound`. Everything runs on copies: the model itself is not touched.

That both compute the same function is decided in float64, quantity by quantity. What float32 may
lose is 4 times what the original loses, relative to the size of a quantity, in any of its kind
(outputs, gradients, statistics): where rounding carries an element across the kink of a ReLU, the
gradients of one layer jump, before and after in different layers. Where one batch is not enough,
the original's error is looked for on more.

The gradient of a bias in front of a batch norm is zero, and what is computed is rounding: the
gradients of a layer are therefore measured against the largest of them.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from evenkeel.errors import InputError, explain
from evenkeel.tools._adopt._records import AdoptionProof, Measured
from evenkeel.tools._adopt._runs import Example, Results, double, run
from evenkeel.tools._compare._bound import Judged, Quantity, judge_again, judge_together, largest
from evenkeel.tools._matching._data import similar_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Further batches that are looked at where one is not enough.
_DRAWS: Final = 4
_Key = tuple[str, str, str]


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model to run.

    Raises:
        InputError: it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise InputError(
            explain(
                asked="adopt a model, with a proof on an example",
                got=f"a {type(model).__name__} that cannot be copied ({error})",
                why="the proof runs copies, so that the model itself does not change",
                do="remove what copy.deepcopy() refuses, or adopt without an example",
            )
        ) from error


def prove(before: nn.Module, after: nn.Module, example: Example) -> AdoptionProof:
    """Compare two copies of a model, the one untouched, the other adopted."""
    pairs = (before, after, double(before), double(after))
    judged = _judge(pairs, example)
    batches = 1
    while not all(one.equal for one in judged.values()) and batches <= _DRAWS:
        similar = example.mapped(lambda t, seed=batches: _similar(t, seed))
        others = _judge(pairs, similar)
        judged = {key: _of_two(one, others.get(key, one)) for key, one in judged.items()}
        batches += 1
    worst = max(judged, key=lambda key: judged[key].ratio)
    own = judged[worst]
    measured = Measured(*worst, own.error_b, own.bound, own.error_a)
    return AdoptionProof(all(o.equal for o in judged.values()), len(judged), batches, measured)


def _judge(
    models: tuple[nn.Module, nn.Module, nn.Module, nn.Module], example: Example
) -> dict[_Key, Judged]:
    wide = example.mapped(Tensor.double)
    a, exact = _originally(models[0], example), _originally(models[2], wide)
    b, other = run(models[1], example), run(models[3], wide)
    sizes: dict[tuple[str, str], float] = defaultdict(float)
    groups: dict[tuple[str, str], list[Quantity]] = defaultdict(list)
    for mode, layer, item in a:
        if _kind(item) == "gradient":
            sizes[mode, layer] = max(sizes[mode, layer], largest(exact[mode, layer, item]))
    for key in a:
        mode, layer, item = key
        size = sizes[mode, layer] if _kind(item) == "gradient" else None
        values = a[key], b.get(key), exact[key], other.get(key)
        groups[mode, _kind(item)].append(Quantity(layer, layer, item, *values, size))
    return {
        (mode, one.quantity.layer, one.quantity.item): one
        for (mode, _), quantities in groups.items()
        for one in judge_together(quantities)
    }


def _kind(item: str) -> str:
    kind = item.partition(" ")[0]
    return kind if kind in ("output", "gradient") else "statistic"


def _of_two(one: Judged, two: Judged) -> Judged:
    """The better of two batches, by the larger own error; a difference in float64 stays one.

    A loss of digits shows on every batch, a kink on some.
    """
    own = max(one.relative_own, two.relative_own)
    return min((judge_again(one, own), judge_again(two, own)), key=lambda j: (j.same, j.ratio))


def _originally(model: nn.Module, example: Example) -> Results:
    """The results of a model that was not adopted, which have to exist and be finite."""
    try:
        results = run(model, example)
    except Exception as error:
        message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise _unusable(message) from error
    if not all(np.isfinite(values).all() for values in results.values()):
        raise _unusable("results with NaN or Inf")
    return results


def _unusable(got: str) -> InputError:
    return InputError(
        explain(
            asked="adopt a model, with a proof on an example",
            got=got,
            why="the model itself has to run on the example forward and backward, in training "
            "and evaluation mode, in its own precision and in float64, and give finite numbers",
            do="pass a batch such as the model is trained with, or adopt without an example",
        )
    )


def _similar(tensor: Tensor, seed: int) -> Tensor:
    drawn: NDArray[Any] = similar_inputs(tensor.detach().cpu().float().numpy(), seed)
    return torch.as_tensor(drawn).to(tensor)
