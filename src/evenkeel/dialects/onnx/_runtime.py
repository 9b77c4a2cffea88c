"""Runs an ONNX model and hands out values between its nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

#: Errors and worse: the runtime logs hints about graphs to stderr otherwise.
_ERRORS_ONLY: Final = 3


def run(model: onnx.ModelProto, inputs: NDArray[Any], wanted: list[str]) -> dict[str, NDArray[Any]]:
    """Values by name, of one run with ONNX Runtime and the graph as it is written.

    A float64 graph whose operators the runtime has no kernels for is run by ONNX's reference
    evaluator.

    Raises:
        InputError: the model does not run on such inputs.
    """
    import onnx
    from onnx import helper

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {item.name for item in exposed.graph.output}
    given = _input(model)
    exposed.graph.output.extend(
        onnx.ValueInfoProto(name=name)
        for name in wanted
        if name not in known and name != given.name
    )
    element = given.type.tensor_type.elem_type
    if np.issubdtype(inputs.dtype, np.floating):
        inputs = inputs.astype(helper.tensor_dtype_to_np_dtype(element))
    names = [name for name in wanted if name != given.name]
    values = _run(exposed, {given.name: inputs}, names, double=element == onnx.TensorProto.DOUBLE)
    return {given.name: inputs, **dict(zip(names, values, strict=True))}


def _run(
    model: onnx.ModelProto, feed: dict[str, NDArray[Any]], names: list[str], *, double: bool
) -> list[Any]:
    import onnxruntime as ort
    from onnxruntime.capi import (
        onnxruntime_pybind11_state as states,  # pyright: ignore[reportAttributeAccessIssue] - compiled
    )

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(names, feed))
    except states.NotImplemented as error:
        if double:
            return _evaluate(model, feed, names)
        raise _refusal(feed, error) from error
    except (states.Fail, states.InvalidArgument, states.InvalidGraph) as error:
        raise _refusal(feed, error) from error


def _evaluate(model: onnx.ModelProto, feed: dict[str, NDArray[Any]], names: list[str]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(model).run(names, feed))


def _input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    held = {tensor.name for tensor in model.graph.initializer}
    return next(item for item in model.graph.input if item.name not in held)


def _refusal(feed: dict[str, NDArray[Any]], error: Exception) -> InputError:
    got = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in feed.items())
    return InputError(
        explain(
            asked="run an ONNX model",
            got=got,
            why=f"ONNX Runtime refuses it ({str(error).splitlines()[0][:200]})",
            do="check the inputs against the graph, and the graph with onnx.checker",
        )
    )
