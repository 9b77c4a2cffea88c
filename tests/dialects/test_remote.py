"""Networks in a process of their own."""

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from evenkeel.dialects._open import open_network
from evenkeel.dialects._remote import RemoteNetwork, _Host, open_remote, open_target
from evenkeel.errors import EvenkeelError, FileError, InputError

MODULE = """
import os

def network():
    import torch
    from torch import nn
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))

def backend():
    raise LookupError(os.environ["KERAS_BACKEND"])

def crash():
    os._exit(3)

class OwnError(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")

def own_error():
    raise OwnError("salt", "pepper")

number = 3
"""
INPUTS = np.random.default_rng(0).standard_normal((5, 6, 6, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    (path / "models_of_remote_test.py").write_text(MODULE)
    return path


@pytest.fixture(scope="module", autouse=True)
def _importable(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.fixture(scope="module")
def remote():
    network = open_remote("models_of_remote_test:network")
    yield network
    network.close()


@pytest.fixture
def local():
    return open_network(importlib.import_module("models_of_remote_test").network())


def arrays_of(network):
    return {
        (layer.name, role): array.read()
        for layer in network.layers()
        for role, array in layer.arrays.items()
    }


def assert_equal_arrays(one, two):
    assert one.keys() == two.keys()
    for key, array in one.items():
        np.testing.assert_array_equal(array, two[key])
        assert np.isfinite(array).all()


def test_layers_are_those_of_the_child(remote, local):
    assert remote.framework == "torch"
    for ours, theirs in zip(remote.layers(), local.layers(), strict=True):
        assert (ours.name, ours.kind, ours.spec) == (theirs.name, theirs.kind, theirs.spec)
        assert ours.shapes == theirs.shapes
        assert ours.settings == theirs.settings
    assert_equal_arrays(arrays_of(remote), arrays_of(local))


def test_inference_is_that_of_the_child(remote, local):
    inputs = np.moveaxis(INPUTS, -1, 1)
    np.testing.assert_array_equal(remote.canonical_inputs(inputs), INPUTS)
    ours, theirs = remote.trace(INPUTS), local.trace(INPUTS)
    assert [call.layer for call in ours.calls] == [call.layer for call in theirs.calls]
    np.testing.assert_allclose(ours.output, theirs.output, rtol=0, atol=1e-6)


def test_writing_configuring_and_doubles(remote, local):
    before = {"1": {"running_mean": np.zeros(4, np.float32)}}
    remote.write({"1": {"running_mean": np.arange(4.0, dtype=np.float32)}})
    assert arrays_of(remote)["1", "running_mean"].tolist() == [0, 1, 2, 3]
    double = remote.double()
    remote.write(before)
    assert arrays_of(double)["1", "running_mean"].tolist() == [0, 1, 2, 3]
    assert double.trace(INPUTS.astype(np.float64)).output.dtype == np.float64
    double.close()
    with pytest.raises(InputError, match="copy of a network"):
        double.layers()
    spec = next(layer.spec for layer in local.layers() if layer.name == "1")
    assert remote.configure("1", spec) == ()


def test_errors_come_back_as_themselves(remote):
    with pytest.raises(InputError, match="'9'") as caught:
        remote.write({"9": {"kernel": np.zeros(2)}})
    assert "Traceback" in caught.value.__notes__[0]
    with pytest.raises(LookupError, match="jax"):
        open_remote("models_of_remote_test:backend", "jax")
    with pytest.raises(EvenkeelError, match="OwnError: salt and pepper"):
        open_remote("models_of_remote_test:own_error")


def test_the_environment_of_this_process_stays(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    before = dict(os.environ)
    with pytest.raises(LookupError, match="tensorflow"):
        open_remote("models_of_remote_test:backend", "tensorflow")
    with pytest.raises(LookupError, match="torch"):
        open_remote("models_of_remote_test:backend")
    assert dict(os.environ) == before


def test_a_crash_is_said():
    with pytest.raises(EvenkeelError, match="the process ended by itself"):
        open_remote("models_of_remote_test:crash")


@pytest.mark.parametrize(
    "target", ["weights.safetensors", "models_of_remote_test:number", "models_of_remote_test:no"]
)
def test_what_is_no_network_is_refused(target):
    with pytest.raises(InputError, match="open a network"):
        open_target(target)


def test_a_missing_file_and_an_unknown_backend_are_refused(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        open_target(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="backend='mxnet'"):
        open_remote("models_of_remote_test:network", "mxnet")


def test_a_closed_network_says_so():
    network = RemoteNetwork(_Host(None), 0, "torch")
    network.close()
    network.close()
    with pytest.raises(InputError, match="one that was closed"):
        network.layers()


def test_the_loss_runs_in_the_child(remote, local):
    ours, theirs = remote.step(INPUTS, _loss()), local.step(INPUTS, _loss())
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    for layer, arrays in theirs.gradients.items():
        for role, array in arrays.items():
            scale = max(np.abs(array).max(), 1.0)
            found = ours.gradients[layer][role]
            np.testing.assert_allclose(found, array, rtol=0, atol=1e-5 * scale)


def _loss():
    from evenkeel.tools._compare._losses import BatchLoss, squared_error

    return BatchLoss(squared_error, np.zeros((5, 2)))


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
def test_the_child_dies_with_a_parent_that_is_killed(folder):
    script = """
        import sys, time
        from evenkeel.dialects._remote import open_remote
        if __name__ == "__main__":
            network = open_remote("models_of_remote_test:network")
            print(*network._host._pool._processes, flush=True)
            time.sleep(60)
    """
    path = folder / "parent.py"
    path.write_text(textwrap.dedent(script))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    with subprocess.Popen(
        [sys.executable, path], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        child = int(parent.stdout.readline())
        assert is_running(child)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def test_the_interface_is_complete():
    from evenkeel.dialects._network import Network

    methods = [name for name in vars(Network) if not name.startswith("_")]
    assert methods
    assert all(callable(getattr(RemoteNetwork, name)) for name in methods if name != "framework")


@pytest.mark.slow
def test_a_file_with_the_layer_of_evenkeel_is_opened(tmp_path):
    code = (
        "import keras; from evenkeel.integrations.keras import BatchNormalization as B; "
        "i = keras.Input((4, 4, 3)); "
        f"keras.Model(i, B(variance='unbiased')(i)).save({str(tmp_path / 'a.keras')!r})"
    )
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    network = open_remote(tmp_path / "a.keras", "torch")
    try:
        assert [layer.spec.variance for layer in network.layers()] == ["unbiased"]
    finally:
        network.close()
