"""``adopt`` and ``release``: evenkeel's layers in a model that exists, and out again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenkeel.errors import InputError, UnsayableError, explain
from evenkeel.tools._adopt._records import Adoption, AdoptionProof, Release, Released
from evenkeel.tools._describe import describe

if TYPE_CHECKING:
    from torch import nn


def adopt(
    model: nn.Module,
    example: Any = None,  # noqa: ANN401 - whatever the model takes
    *,
    fuse: bool = False,
) -> Adoption:
    """Put evenkeel's batch norms into a model, in place, and prove that nothing else changed.

    Every module stays the same object with the same parameters, buffers and hooks; only its class
    changes, so that optimizers and DDP keep what they hold. The three deviations from torch
    (:func:`evenkeel.nn.strict_torch`) apply from now on.

    Args:
        model: any ``torch.nn.Module``. Batch norms of other classes than torch's plain ones and
            timm's ``BatchNormAct2d`` are left as they are, and the report says why.
        example: a batch, as a tensor, a tuple of arguments or a dict of named ones. With it the
            model is run before and after, in both modes: outputs, all gradients and statistics
            have to be equal within 4 times the model's own float32 error. Copies are run: the
            model, its statistics and the random numbers stay as they were.
        fuse: also compute what follows a batch norm, an activation or the addition of a residual,
            in the same pass. The code of the blocks that call batch norms is traced by
            ``torch.fx`` and rewritten. (timm's layer, which has its activation inside, needs no
            such thing.)

    Returns:
        The report: ``.model``, ``.layers``, ``.proof``, ``.undo()``, ``.to_dict()``; it prints as
        a table.

    Raises:
        InputError: it is no torch module, the example cannot be run, or a result differs. The
            model is then what it was.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> report = adopt(net, torch.randn(4, 3, 9, 9), fuse=True)
        >>> report.layers[0].fused, report.proof.holds
        (('relu',), True)
    """
    _require_module(model, "adopt a model")
    from evenkeel.tools._adopt._model import adopt_layers, check_pairs
    from evenkeel.tools._adopt._proof import copied, prove
    from evenkeel.tools._adopt._runs import Example
    from evenkeel.tools._adopt._snapshot import Snapshot

    given = None if example is None else Example.of(example)
    snapshot = Snapshot(model)
    before = None if given is None else copied(model)
    try:
        found = adopt_layers(model, fuse=fuse)
        if before is None or given is None:
            return Adoption(model, found.rows, None, check_pairs(found), snapshot.restore)
        proof = prove(before, copied(model), given)
        _require(proof)
    except BaseException:
        snapshot.restore()
        raise
    return Adoption(model, found.rows, proof, 0, snapshot.restore)


def release(model: nn.Module) -> Release:
    """Give torch's and timm's batch norms, and every rewritten block, their exact classes back.

    Parameters, buffers and hooks stay; what evenkeel added goes. Layers that were built as
    ``ek.nn.BatchNorm*`` become torch's as well. Statistics that stayed float32 beside 16-bit
    parameters are rounded to the dtype that torch's layer needs, and the report says so.

    Args:
        model: any ``torch.nn.Module``.

    Returns:
        The report: ``.model``, ``.modules``, ``.undo()``, ``.to_dict()``; it prints as a table.

    Raises:
        InputError: it is no torch module.
        UnsayableError: a layer stores the biased variance, which torch's layer would not go on to.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.BatchNorm1d(8))
        >>> report = adopt(net)
        >>> [row.kind for row in release(net).modules]
        ['BatchNorm1d']
    """
    _require_module(model, "release a model")
    from evenkeel.tools._adopt._classes import become_original, original_class
    from evenkeel.tools._adopt._snapshot import Snapshot

    adopted = [(name, m) for name, m in model.named_modules() if original_class(m) is not None]
    for name, module in adopted:
        if getattr(module, "variance", None) == "biased":
            raise UnsayableError(_says_more(name, module))
    snapshot = Snapshot(model)
    rows = [(name, become_original(module), type(module).__name__) for name, module in adopted]
    released = tuple(Released(name, kind, note) for name, note, kind in rows)
    return Release(model, released, snapshot.restore)


def _require_module(model: object, asked: str) -> None:
    from evenkeel.tools._inspect._network import framework_of_model

    if framework_of_model(model) == "torch":
        return
    raise InputError(
        explain(
            asked=asked,
            got=describe(model),
            why="only live torch modules have batch norms whose class can change",
            do="pass a torch.nn.Module",
        )
    )


def _require(proof: AdoptionProof) -> None:
    if proof.holds:
        return
    worst = proof.worst
    where = f"{worst.item} of {worst.layer!r}" if worst.layer else worst.item
    raise InputError(
        explain(
            asked="adopt a model without changing its results",
            got=f"{where} in {worst.mode} mode is off by {worst.error:.2e}, allowed is "
            f"{worst.bound:.2e}; the model's own error is {worst.own_error:.2e}",
            why="after adopting, the model computes something else, or less exactly; it was "
            "left as it was",
            do="adopt with fuse=False; if that holds, please report the block that was fused",
        )
    )


def _says_more(name: str, module: nn.Module) -> str:
    return explain(
        asked=f"release {name!r} to torch's class",
        got=f"a {type(module).__name__} with variance='biased'",
        why="torch's layer would let unbiased variances into biased statistics",
        do="keep the layer, or set layer.variance = 'unbiased' if that is what you want",
    )
