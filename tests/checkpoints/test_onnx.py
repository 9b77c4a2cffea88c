"""ONNX models: every place and type in which values stand, the graph, and lies about both."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from evenkeel import checkpoints
from evenkeel.checkpoints import StoredArray, write
from evenkeel.errors import FileError

C = 3
TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int16": TensorProto.INT16,
    "int8": TensorProto.INT8,
    "uint64": TensorProto.UINT64,
    "uint32": TensorProto.UINT32,
    "uint16": TensorProto.UINT16,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
    "complex64": TensorProto.COMPLEX64,
    "complex128": TensorProto.COMPLEX128,
}


def model(initializers=None, nodes=(), **options) -> onnx.ModelProto:
    """A batch-norm layer with the given initializers, and further nodes."""
    if initializers is None:
        values = {"scale": [1, 2, 3], "B": [0.5] * 3, "mean": [0, 1, 2], "var": [1, 4, 9]}
        initializers = [numpy_helper.from_array(np.float32(v), n) for n, v in values.items()]
    norm = helper.make_node(
        "BatchNormalization", ["x", "scale", "B", "mean", "var"], ["y"], name="bn", epsilon=1e-3
    )
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", C]) for n in "xy"]
    graph = helper.make_graph([norm, *nodes], "net", ends[:1], ends[1:], initializers)
    opset = [helper.make_opsetid("", 15)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8, **options)


def saved(path, proto):
    path.write_bytes(proto.SerializeToString())
    return path


def external(folder, name="m.onnx", data="m.data"):
    onnx.save(model(), folder / name, save_as_external_data=True, size_threshold=0, location=data)
    return folder / name


def run(path):
    x = np.random.default_rng(0).standard_normal((5, C), np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_the_graph_is_described_in_json(tmp_path):
    constant = helper.make_node(
        "Constant", [], ["half"], value=numpy_helper.from_array(np.float16([1, 2]), "ignored")
    )
    fill = helper.make_node(
        "ConstantOfShape", ["n"], ["f"], value=numpy_helper.from_array(np.float32([7]))
    )
    odd = helper.make_node("Odd", ["y", ""], ["z"], domain="mine", s="text", many=[1, 2], f=[0.5])
    proto = model(nodes=[constant, fill, odd], producer_name="me")
    proto.metadata_props.add(key="a", value="b")
    file = checkpoints.read(saved(tmp_path / "m.onnx", proto))
    config = json.loads(json.dumps(file.config))
    assert (config["ir_version"], config["opset"], config["functions"]) == (8, {"": 15}, 0)
    assert config["inputs"] == [{"name": "x", "shape": ["N", C], "dtype": "float32"}]
    assert config["outputs"] == [{"name": "y", "shape": ["N", C], "dtype": "float32"}]
    assert (config["metadata"], config["producer"]) == ({"a": "b"}, "me")
    assert config["nodes"][0] == {
        "name": "bn",
        "op": "BatchNormalization",
        "domain": "",
        "inputs": ["x", "scale", "B", "mean", "var"],
        "outputs": ["y"],
        "attributes": {"epsilon": float(np.float32(1e-3))},
    }
    assert config["nodes"][1]["attributes"] == {"value": {"array": "half"}}
    assert config["nodes"][2]["attributes"] == {"value": {"array": "f.value"}}
    assert config["nodes"][3]["attributes"] == {"s": "text", "many": [1, 2], "f": [0.5]}
    assert [*file.arrays] == ["scale", "B", "mean", "var", "half", "f.value"]
    assert file.arrays["half"].read().tolist() == [1, 2]


def test_arrays_of_subgraphs_are_named_as_left(tmp_path):
    inner = helper.make_graph([], "then", [], [], [numpy_helper.from_array(np.zeros(1), "deep")])
    branch = helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner)
    file = checkpoints.read(saved(tmp_path / "m", model(nodes=[branch])))
    assert file.left == ("deep", "deep")
    assert file.config["nodes"][1]["attributes"]["then_branch"]["nodes"] == []


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_element_type_is_read_from_bytes_and_from_typed_fields(tmp_path, dtype, raw):
    code = TYPES[dtype]
    values = np.array([[0, 1], [3, 1]]).astype(helper.tensor_dtype_to_np_dtype(code))
    if raw:
        tensor = numpy_helper.from_array(values, "w")
    else:
        tensor = helper.make_tensor("w", code, [2, 2], values.flatten().tolist())
    assert tensor.HasField("raw_data") == raw
    array = checkpoints.read(saved(tmp_path / "m", model([tensor]))).arrays["w"]
    assert (array.shape, array.dtype) == ((2, 2), dtype)
    wanted = "float32" if dtype == "bfloat16" else dtype
    assert array.read().dtype == wanted
    assert array.read().tolist() == values.astype(wanted).tolist()


def test_types_that_are_not_read_are_listed(tmp_path):
    tensors = [helper.make_tensor("s", TensorProto.STRING, [1], [b"a"])]
    array = checkpoints.read(saved(tmp_path / "m", model(tensors))).arrays["s"]
    assert array.dtype == "string"
    with pytest.raises(FileError, match="s with elements of type string"):
        array.read()


def test_external_data_are_read_late(tmp_path):
    file = checkpoints.read(external(tmp_path))
    assert file.arrays["var"].read().tolist() == [1, 4, 9]
    (tmp_path / "m.data").write_bytes(bytes((tmp_path / "m.data").stat().st_size))
    with pytest.raises(FileError, match=r"m\.data[\s\S]*while fetching var"):
        file.arrays["var"].read()


@pytest.mark.parametrize("outside", [False, True])
def test_values_are_replaced_and_the_model_still_runs(tmp_path, outside):
    source = external(tmp_path) if outside else saved(tmp_path / "m.onnx", model())
    like = checkpoints.read(source)
    write(tmp_path / "same.onnx", like.arrays, like=like, metadata={"by": "us"})
    np.testing.assert_array_equal(run(source), run(tmp_path / "same.onnx"))
    assert checkpoints.read(tmp_path / "same.onnx").config["metadata"] == {"by": "us"}
    doubled = np.float32([2, 4, 6])
    arrays = {**like.arrays, "scale": StoredArray((C,), "float32", lambda: doubled)}
    write(tmp_path / "same.onnx", arrays, like=like, overwrite=True)
    read = checkpoints.read(tmp_path / "same.onnx")
    assert read.arrays["scale"].read().tolist() == [2, 4, 6]
    assert read.arrays["var"].read().tolist() == [1, 4, 9]
    onnx.checker.check_model(str(tmp_path / "same.onnx"), full_check=True)
    beside = [path.name for path in tmp_path.iterdir() if path.name.startswith("same.onnx.")]
    assert len(beside) == outside  # the data of the replaced model are gone


def test_a_model_with_external_data_can_be_replaced_by_itself(tmp_path):
    like = checkpoints.read(external(tmp_path))
    for _ in range(2):
        write(tmp_path / "m.onnx", like.arrays, like=like, overwrite=True)
        like = checkpoints.read(tmp_path / "m.onnx")
        assert like.arrays["var"].read().tolist() == [1, 4, 9]
    assert len([*tmp_path.iterdir()]) == 3  # m.data was not named here and may be shared


def test_a_failure_leaves_no_data_behind(tmp_path):
    like = checkpoints.read(external(tmp_path))
    before = sorted(tmp_path.iterdir())

    def fail():
        raise KeyboardInterrupt

    arrays = {**like.arrays, "var": StoredArray((C,), "float32", fail)}
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new.onnx", arrays, like=like)
    assert sorted(tmp_path.iterdir()) == before


def test_what_does_not_fit_the_model_is_refused(tmp_path):
    like = checkpoints.read(saved(tmp_path / "m.onnx", model()))
    with pytest.raises(FileError, match="pass like="):
        write(tmp_path / "n.onnx", like.arrays)
    with pytest.raises(FileError, match="1 arrays missing and 0 too many, as var"):
        write(tmp_path / "n.onnx", {n: like.arrays[n] for n in ("scale", "B", "mean")}, like=like)
    with pytest.raises(FileError, match="0 arrays missing and 1 too many, as more"):
        write(tmp_path / "n.onnx", {**like.arrays, "more": like.arrays["B"]}, like=like)
    wrong = StoredArray((C,), "float64", lambda: np.zeros(C))
    with pytest.raises(FileError, match="var of shape"):
        write(tmp_path / "n.onnx", {**like.arrays, "var": wrong}, like=like)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def tensor(**fields):
    told = {"name": "w", "dims": [3], "data_type": TensorProto.FLOAT, **fields}
    return TensorProto(**told)


def outside(location, offset="0", length="12"):
    made = tensor(data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        made.external_data.add(key=key, value=value)
    return made


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([tensor(raw_data=bytes(8))], "w whose shape"),
        ([tensor(raw_data=bytes(12), float_data=[1, 2, 3])], "twice"),
        ([tensor(float_data=[1, 2])], "w whose shape"),
        ([tensor(double_data=[1, 2, 3])], "w whose shape"),
        ([tensor()], "w whose shape"),
        ([tensor(dims=[-3], raw_data=bytes(12))], r"shape \(-3,\)"),
        ([tensor(dims=[2**62, 2**62, 4])], "w whose shape"),
        ([tensor(dims=[1] * 64 + [3], raw_data=bytes(12))], "w of 65 dimensions"),
        ([tensor(dims=[0, 2**62, 4])], "w of .0, 4611686018427387904, 4"),
        ([tensor(data_type=99, raw_data=bytes(12))], "unknown type 99"),
        ([tensor(data_type=0)], "unknown type 0"),
        ([tensor(name="", raw_data=bytes(12))], "without a name"),
        ([tensor(raw_data=bytes(12))] * 2, "two arrays called w"),
        ([outside("../secret")], "outside of the model's folder"),
        ([outside("/etc/hostname")], "outside of the model's folder"),
        ([outside("C:\\data")], "outside of the model's folder"),
        ([outside("a/../../secret")], "outside of the model's folder"),
        ([outside("link")], "outside of the model's folder"),
        ([outside("")], "outside of the model's folder"),
        ([outside("missing")], "is missing"),
        ([outside("data", offset="60")], "beyond the end"),
        ([outside("data", offset="-4")], "no valid place"),
        ([outside("data", offset="9" * 50)], "no valid place"),
        ([outside("data", length="8")], "needs 12 bytes"),
    ],
)
def test_tensors_that_lie_are_refused_by_name(tmp_path, tensors, message):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    (folder / "data").write_bytes(bytes(64))
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(FileError, match=message) as caught:
        checkpoints.read(saved(folder / "bad.onnx", model(tensors)))
    for part in ("bad.onnx", "got:", "why:", "do:"):
        assert part in str(caught.value)


def test_external_arrays_may_be_the_same_bytes_but_not_overlap(tmp_path):
    (tmp_path / "data").write_bytes(bytes(64))
    tied = [outside("data"), outside("data")]
    tied[1].name = "v"
    assert len(checkpoints.read(saved(tmp_path / "m", model(tied))).arrays) == 2
    tied[1].external_data[1].value = "4"
    with pytest.raises(FileError, match="on the same bytes"):
        checkpoints.read(saved(tmp_path / "m", model(tied)))


def test_sparse_initializers_are_refused(tmp_path):
    proto = model()
    proto.graph.sparse_initializer.add()
    with pytest.raises(FileError, match="dense initializers"):
        checkpoints.read(saved(tmp_path / "m", proto))


def test_damaged_models_are_refused(tmp_path):
    whole = model().SerializeToString()
    for end in (1, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + whole[2 : end + 1][:-1])
        with pytest.raises(FileError, match=r"m\.onnx"):
            checkpoints.read(tmp_path / "m.onnx")
    proto = model()
    proto.graph.node[0].attribute.append(proto.graph.node[0].attribute[0])
    with pytest.raises(FileError, match="bn with two attributes"):
        checkpoints.read(saved(tmp_path / "m.onnx", proto))
    (tmp_path / "m.onnx").write_bytes(whole.replace(b"mean", b"\xffean"))
    with pytest.raises(FileError, match="no text"):
        checkpoints.read(tmp_path / "m.onnx")
