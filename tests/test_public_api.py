"""The public names, as outside code uses them."""

import importlib
from types import ModuleType

import pytest

import evenkeel as ek

PUBLIC = {
    "evenkeel": [
        "Momentum", "Spec", "State", "adopt", "compare", "convert", "errors", "inspect", "kernels",
        "nn", "port", "reference", "release",
    ],
    "evenkeel.kernels": [
        "Candidate", "Explanation", "Moments", "Norm", "Problem", "Provider", "Sums", "choose",
        "explain", "load", "providers", "select", "use",
    ],
    "evenkeel.kernels.conformance": [
        "Case", "DTYPES", "Failure", "Inputs", "Law", "Report", "cases", "check", "check_case",
        "check_function",
    ],
    "evenkeel.nn": [
        "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BatchNormAct1d", "BatchNormAct2d",
        "BatchNormAct3d", "FrozenBatchNorm", "LazyBatchNorm1d", "LazyBatchNorm2d",
        "LazyBatchNorm3d", "functional", "strict_torch",
    ],
    "evenkeel.nn.functional": ["BatchNormResult", "batch_norm"],
    "evenkeel.reference": [
        "Gradients", "Moments", "Running", "Sums", "activate", "activation_gradient", "backward",
        "backward_input", "backward_reduce", "fold", "forward", "gradient_descent_step", "merge",
        "moments", "normalize", "standardize", "stored_variance", "update_running",
    ],
    "evenkeel.tools": [
        "Adopted", "Adoption", "AdoptionProof", "Cause", "ComparedArray", "Comparison",
        "ComparisonRow", "Conversion", "Converted", "Count", "FileComparison", "Finding",
        "Inspection", "LayerRow", "LeftOut", "Measured", "Port", "Proof", "Range", "Release",
        "Released", "Setting", "SettingDifference", "adopt", "compare", "compare_files", "convert",
        "inspect", "port", "release",
    ],
}  # fmt: skip


@pytest.mark.parametrize("module", PUBLIC)
def test_names_are_these_and_documented(module):
    home = importlib.import_module(module)
    assert sorted(home.__all__) == sorted(PUBLIC[module])
    for name in home.__all__:
        value = getattr(home, name)
        documented = value.__doc__ if callable(value) or isinstance(value, ModuleType) else "data"
        assert documented, f"{module}.{name} has no docstring"


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'evenkeel' has no attribute 'batchnorm'"):
        ek.batchnorm  # noqa: B018 - the access is the test
    assert set(ek.__all__) <= set(dir(ek))
