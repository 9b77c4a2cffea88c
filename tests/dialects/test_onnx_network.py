"""Live ONNX models through the network interface, and their files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from evenkeel import checkpoints
from evenkeel.checkpoints import Checkpoint
from evenkeel.checkpoints._write import write
from evenkeel.dialects import onnx as dialect
from evenkeel.dialects import torch as torch_dialect
from evenkeel.dialects._open import open_network
from evenkeel.errors import FileError, InputError, UnsayableError
from evenkeel.spec import Momentum, Spec

pytestmark = [
    # torch's TorchScript exporter, the only one that keeps batch norm after a convolution.
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]
IMAGES = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)


def randomized(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.1
    return model.eval()


def exported(model: nn.Module, example: torch.Tensor, opset: int = 17) -> onnx.ModelProto:
    file = io.BytesIO()
    torch.onnx.export(
        model,
        (example,),
        file,
        dynamo=False,
        opset_version=opset,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    return onnx.load_from_string(file.getvalue())


def make() -> nn.Module:
    return randomized(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, padding=1),
            nn.BatchNorm2d(4),
            nn.PReLU(4),
            nn.ConvTranspose2d(4, 2, 2, bias=False),
            nn.Flatten(),
            nn.Linear(50, 5),
        )
    )


@pytest.fixture(scope="module")
def source() -> nn.Module:
    return make()


@pytest.fixture
def model(source) -> onnx.ModelProto:
    return exported(source, torch.tensor(IMAGES))


@pytest.fixture
def like(model, tmp_path) -> Checkpoint:
    onnx.save(model, tmp_path / "like.onnx")
    return checkpoints.read(tmp_path / "like.onnx")


def test_layers_are_those_of_the_torch_model(source, model):
    theirs = {layer.name: layer for layer in torch_dialect.open_network(source).layers()}
    ours = dialect.open_network(model).layers()
    assert [layer.name for layer in ours] == list(theirs)
    for layer in ours:
        other = theirs[layer.name]
        assert (layer.kind, layer.settings) == (other.kind, other.settings)
        for role, array in layer.arrays.items():
            assert array.shape == other.shapes[role]
            np.testing.assert_array_equal(array.read(), other.arrays[role].read())
    (norm,) = [layer for layer in ours if layer.kind == "batch_norm"]
    assert norm.spec.eps == float(np.float32(1e-5))
    assert norm.spec.momentum.value == float(np.float32(0.9))


def test_a_trace_is_that_of_the_torch_model(source, model):
    theirs = torch_dialect.open_network(source).trace(np.moveaxis(IMAGES, 1, -1))
    network = open_network(model)
    before = model.SerializeToString()
    trace = network.trace(network.canonical_inputs(IMAGES))
    assert [call.layer for call in trace.calls] == [call.layer for call in theirs.calls]
    for call, other in zip(trace.calls, theirs.calls, strict=True):
        np.testing.assert_allclose(call.input, other.input, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(call.output, other.output, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(trace.output, theirs.output, rtol=1e-5, atol=1e-4)
    assert model.SerializeToString() == before


@pytest.mark.slow  # the exporter takes 15 s
def test_an_exported_model_may_have_its_batch_norm_folded(source):
    program = torch.onnx.export(source, (torch.tensor(IMAGES),), dynamo=True, verbose=False)
    network = open_network(program.model_proto)
    kinds = [layer.kind for layer in network.layers()]
    assert kinds == ["conv", "prelu", "conv_transpose", "dense"]
    with torch.no_grad():
        expected = source(torch.tensor(IMAGES)).numpy()
    trace = network.trace(network.canonical_inputs(IMAGES))
    np.testing.assert_allclose(trace.output, expected, rtol=1e-5, atol=1e-4)


def test_a_linear_layer_of_sequences_is_dense():
    source = randomized(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)))
    x = torch.randn(2, 5, 3)
    network = open_network(exported(source, x))
    assert [layer.kind for layer in network.layers()] == ["dense", "layer_norm", "dense"]
    assert [layer.name for layer in network.layers()] == ["0", "1", "2"]
    theirs = torch_dialect.open_network(source)
    for layer, other in zip(network.layers(), theirs.layers(), strict=True):
        for role, array in layer.arrays.items():
            np.testing.assert_array_equal(array.read(), other.arrays[role].read())
    np.testing.assert_allclose(
        network.trace(x.numpy()).output, theirs.trace(x.numpy()).output, rtol=1e-5, atol=1e-5
    )


def test_an_embedding_is_found():
    source = randomized(nn.Sequential(nn.Embedding(7, 3)))
    network = open_network(exported(source, torch.tensor([[1, 2]])))
    assert [layer.kind for layer in network.layers()] == ["embedding"]
    tokens = np.array([[1, 2]])
    trace = network.trace(tokens)
    np.testing.assert_array_equal(trace.output, source(torch.tensor(tokens)).detach().numpy())


@pytest.mark.parametrize("opset", [9, 17])
def test_double_computes_in_float64(source, opset):
    x = np.moveaxis(IMAGES, 1, -1).astype(np.float64)
    trace = dialect.open_network(exported(make(), torch.tensor(IMAGES), opset)).double().trace(x)
    assert trace.output.dtype == np.float64
    theirs = torch_dialect.open_network(source).double().trace(x)
    # eps is a float32 number here: 2.5e-8 of 1e-5 beside variances above 0.1.
    np.testing.assert_allclose(trace.output, theirs.output, rtol=1e-11)


def test_double_refuses_what_it_cannot_widen(model):
    model.graph.node[0].domain = "com.example"
    with pytest.raises(UnsayableError, match=r"com\.example"):
        dialect.open_network(model).double()


def test_writing_is_in_place_and_all_or_nothing(source, model):
    network = dialect.open_network(model)
    target = randomized(make())
    for tensor in target.parameters():
        tensor.data *= 2
    values = {
        layer.name: {r: a.read() for r, a in layer.arrays.items() if r != "batches"}
        for layer in torch_dialect.open_network(target).layers()
    }
    before = model.SerializeToString()
    with pytest.raises(InputError):
        network.write({**values, "5": {"kernel": np.zeros((5, 50), "f4")}})
    assert model.SerializeToString() == before
    network.write(values)
    with torch.no_grad():
        expected = target(torch.tensor(IMAGES)).numpy()
    trace = network.trace(np.moveaxis(IMAGES, 1, -1))
    np.testing.assert_allclose(trace.output, expected, rtol=1e-5, atol=1e-3)
    assert network.model is model


def test_arrays_that_the_exporter_shared_are_not_written_apart():
    fresh = nn.Sequential(nn.BatchNorm2d(3)).eval()
    network = dialect.open_network(exported(fresh, torch.tensor(IMAGES)))
    one, two = np.ones(3, "f4"), np.full(3, 2, "f4")
    with pytest.raises(InputError, match="stored equal arrays once"):
        network.write({"0": {"weight": one, "running_var": two}})
    network.write({"0": {"weight": two, "running_var": two}})
    assert network.layers()[0].arrays["running_var"].read().tolist() == [2, 2, 2]


def test_configure_sets_the_attributes(model):
    network = dialect.open_network(model)
    spec = Spec(4, eps=0.5, momentum=Momentum(0.25, "new"), variance="biased")
    assert network.configure("1", spec) == ()
    (norm,) = [layer for layer in network.layers() if layer.spec]
    assert (norm.spec.eps, norm.spec.momentum) == (0.5, Momentum(0.75, "old"))
    (found,) = network.configure("1", Spec(4, eps=0.25))
    assert found.field == "variance"
    assert [la.spec.eps for la in network.layers() if la.spec] == [0.5]


def test_training_is_refused(model):
    with pytest.raises(UnsayableError, match="no gradients"):
        dialect.open_network(model).step(IMAGES, lambda output: (0.0, output))


def test_inputs_that_do_not_fit_are_refused(model):
    with pytest.raises(InputError, match="the graph takes"):
        dialect.open_network(model).canonical_inputs(np.zeros((2, 8, 8, 3), "f4"))
    extra = helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
    model.graph.input.append(extra)
    with pytest.raises(InputError, match="one input"):
        dialect.open_network(model)


def test_a_graph_that_begins_with_a_transpose_is_channels_last():
    weight = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["t", "w"], ["c"], "conv"),
            helper.make_node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5, 6, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5, 6, 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    network = open_network(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    x = np.random.default_rng(1).normal(size=(2, 5, 6, 3)).astype(np.float32)
    inputs = network.canonical_inputs(x)
    np.testing.assert_array_equal(inputs, x)
    trace = network.trace(inputs)
    np.testing.assert_allclose(trace.output, x @ weight[..., 0, 0].T, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(trace.calls[0].output, trace.output)


def test_unknown_operators_with_weights_are_other():
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "w"], ["a"], "scaled"),
            helper.make_node("Mul", ["a", "two"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [
            numpy_helper.from_array(np.ones(3, "f4"), "w"),
            numpy_helper.from_array(np.array(2, "f4"), "two"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    (layer,) = open_network(helper.make_model(graph, opset_imports=opsets, ir_version=8)).layers()
    assert (layer.name, layer.kind, layer.shapes) == ("scaled", "other", {"w": (3,)})


def test_a_file_is_read_as_the_live_model(model, like):
    network = dialect.read_network(like)
    for layer, live in zip(network.layers, dialect.open_network(model).layers(), strict=True):
        assert (layer.name, layer.kind, layer.spec) == (live.name, live.kind, live.spec)
        for role, array in live.arrays.items():
            np.testing.assert_array_equal(layer.arrays[role].read(), array.read())


def test_a_state_dict_goes_into_a_graph(model, like, tmp_path):
    target = randomized(make())
    for tensor in target.parameters():
        tensor.data *= 2
    layers = torch_dialect.open_network(target).layers()
    arrays = dialect.write_network(layers, like)
    assert arrays.keys() == like.arrays.keys()
    write(tmp_path / "new.onnx", arrays, like=like)
    with torch.no_grad():
        expected = target(torch.tensor(IMAGES)).numpy()
    trace = open_network(onnx.load(tmp_path / "new.onnx")).trace(np.moveaxis(IMAGES, 1, -1))
    np.testing.assert_allclose(trace.output, expected, rtol=1e-5, atol=1e-3)


def test_a_graph_keeps_its_own_eps(like):
    source = make()
    source[1].eps = 1e-3
    layers = torch_dialect.open_network(source).layers()
    with pytest.raises(UnsayableError, match=r"eps=0\.001"):
        dialect.write_network(layers, like)


def test_files_are_not_written_in_part(source, like):
    layers = torch_dialect.open_network(source).layers()
    with pytest.raises(InputError, match="no `like`"):
        dialect.write_network(layers)
    with pytest.raises(InputError, match="one side only"):
        dialect.write_network(layers[:-1], like)
    with pytest.raises(FileError, match="no graph"):
        dialect.read_network(Checkpoint(Path("x"), "torch", {}))
