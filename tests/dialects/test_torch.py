"""Torch's batch-norm layers as Spec and State."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evenkeel import checkpoints
from evenkeel.dialects import torch as dialect
from evenkeel.errors import ChannelError, EvenkeelError, InputError
from evenkeel.spec import Activation, Momentum, Spec, State

ARRAYS = ("weight", "bias", "running_mean", "running_var")


def filled(module: nn.Module) -> nn.Module:
    """The module with distinct values everywhere."""
    generator = torch.Generator().manual_seed(1)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        else:
            tensor.fill_(7)
    return module


class FrozenBatchNorm2d(nn.Module):
    """As in torchvision and detectron2."""

    def __init__(self, channels: int, eps: float | None = 1e-5) -> None:
        super().__init__()
        if eps is not None:
            self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


class Fused(nn.Module):
    """Built like evenkeel's fused layers: no instance of torch's class."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = 3, 1e-4, 0.2
        self.variance, self.nonfinite, self.activation = "biased", "raise", ("leaky_relu", 0.2)
        self.weight, self.bias = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", torch.ones(3))
        self.register_buffer("num_batches_tracked", torch.tensor(0))


@pytest.mark.parametrize(
    ("kind", "rank"),
    [
        (nn.BatchNorm1d, None),
        (nn.BatchNorm2d, 4),
        (nn.BatchNorm3d, 5),
        (nn.SyncBatchNorm, None),
    ],
)
def test_a_plain_layer_is_read_whole(kind, rank):
    module = filled(kind(5, eps=1e-3, momentum=0.2))
    spec, state = dialect.read_module(module, "net.bn")
    wanted = Spec(
        5,
        eps=1e-3,
        momentum=Momentum(0.2, "new"),
        rank=rank,
        synchronized=kind is nn.SyncBatchNorm,
        name="net.bn",
    )
    assert spec == wanted
    for name in ARRAYS:
        values = getattr(module, name).detach().numpy()
        np.testing.assert_array_equal(getattr(state, name), values, strict=True)
    assert state.batches == 7


@pytest.mark.parametrize(
    ("settings", "has"),
    [
        ({"affine": False}, {"running_mean", "running_var"}),
        ({"bias": False}, {"weight", "running_mean", "running_var"}),
        ({"track_running_stats": False}, {"weight", "bias"}),
        ({"affine": False, "track_running_stats": False}, set()),
    ],
)
def test_missing_arrays_are_missing(settings, has):
    spec, state = dialect.read_module(nn.BatchNorm2d(3, **settings))
    assert set(state.arrays()) == has
    assert (spec.scale, spec.offset, spec.track_statistics) == (
        "weight" in has,
        "bias" in has,
        "running_mean" in has,
    )
    assert (state.batches is None) == ("running_mean" not in has)
    assert spec.channels == 3


def test_settings_of_torch_alone_are_kept():
    late = nn.BatchNorm1d(2)
    late.track_running_stats = False
    assert dialect.read_spec(late).options == {"track_running_stats": False}
    assert dialect.read_spec(late).track_statistics
    assert dialect.read_spec(nn.BatchNorm1d(2, momentum=None)).momentum.is_cumulative
    frozen = nn.BatchNorm1d(2).requires_grad_(requires_grad=False)
    assert dialect.read_spec(frozen).affine_frozen
    assert not dialect.read_spec(frozen).statistics_frozen


def test_a_subclass_names_its_class():
    class Special(nn.BatchNorm2d):
        pass

    assert dialect.read_spec(Special(2)).options["class"].endswith("Special")
    assert dialect.read_spec(nn.BatchNorm2d(2)).options == {}


def test_a_fused_layer_is_read():
    spec, _ = dialect.read_module(Fused())
    assert spec.activation == Activation("leaky_relu", 0.2)
    assert (spec.variance, spec.options["nonfinite"]) == ("biased", "raise")
    assert (spec.eps, spec.momentum) == (1e-4, Momentum(0.2, "new"))


def test_a_frozen_layer_is_read():
    spec, state = dialect.read_module(filled(FrozenBatchNorm2d(4, eps=0.0)))
    assert (spec.eps, spec.statistics_frozen, spec.affine_frozen, spec.rank) == (0.0, True, True, 4)
    assert set(state.arrays()) == {*ARRAYS}
    assert state.batches is None


def test_a_frozen_layer_that_hides_its_eps_is_not_guessed_at():
    with pytest.raises(dialect.UnsaidError, match="hidden in its forward"):
        dialect.read_module(FrozenBatchNorm2d(4, eps=None))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_keep_name_and_values(dtype):
    module = filled(nn.BatchNorm1d(3)).to(dtype)
    module.running_mean = module.running_mean.float()
    module.running_var = module.running_var.float()
    spec, state = dialect.read_module(module)
    assert (spec.parameter_dtype, spec.statistics_dtype) == (str(dtype)[6:], "float32")
    np.testing.assert_array_equal(
        state.weight.astype(np.float64), module.weight.detach().double().numpy()
    )


def test_the_arrays_are_copies():
    module = filled(nn.BatchNorm1d(3))
    before = copy.deepcopy(module.state_dict())
    state = dialect.read_state(module)
    for array in state.arrays().values():
        array[:] = 99
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_lazy_layers():
    lazy = nn.LazyBatchNorm2d()
    with pytest.raises(dialect.UnsaidError, match="no channels before its first input"):
        dialect.read_module(lazy)
    lazy.load_state_dict(filled(nn.BatchNorm2d(6)).state_dict())
    assert lazy.num_features == 0  # torch leaves it so
    assert dialect.read_spec(lazy).channels == 6
    used = nn.LazyBatchNorm2d()
    used(torch.randn(2, 3, 4, 4))
    assert dialect.read_module(used)[0].channels == 3


def test_meta_layers_have_a_spec_and_no_state():
    module = nn.BatchNorm2d(3, device="meta")
    assert dialect.read_spec(module).channels == 3
    with pytest.raises(dialect.UnsaidError, match="no values"):
        dialect.read_state(module)


def test_a_parametrized_scale_is_read_without_moving_it():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.tensor(0))

        def forward(self, weight):
            if self.training:
                self.calls += 1
            return 2 * weight

    module = nn.BatchNorm1d(3)
    nn.utils.parametrize.register_parametrization(module, "weight", Counting())
    calls = int(module.parametrizations.weight[0].calls)
    _, state = dialect.read_module(module)
    assert state.weight.tolist() == [2.0, 2.0, 2.0]
    assert int(module.parametrizations.weight[0].calls) == calls
    assert module.parametrizations.weight[0].training


@pytest.mark.parametrize(
    "module", [nn.InstanceNorm2d(3, affine=True, track_running_stats=True), nn.LayerNorm(3)]
)
def test_other_layers_are_refused(module):
    assert not dialect.is_batch_norm(module)
    with pytest.raises(InputError, match="neither one of torch's"):
        dialect.read_module(module)


def test_arrays_that_do_not_fit_are_refused():
    module = nn.BatchNorm1d(3)
    module.running_mean = torch.zeros(4)
    with pytest.raises(ChannelError):
        dialect.read_module(module)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "a.b.0."])
def test_layers_are_found_in_a_state_dict(prefix):
    model = nn.Sequential(
        nn.Linear(2, 3), filled(nn.BatchNorm1d(3)), nn.BatchNorm1d(3, affine=False)
    )
    arrays = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    first, second = dialect.read_arrays(arrays)
    assert (first.name, second.name) == (f"{prefix}1", f"{prefix}2")
    assert first.state.identical(dialect.read_state(model[1]))
    assert first.spec.channels == 3
    assert {"eps", "momentum", "variance"} <= set(first.assumed)
    assert (second.spec.scale, second.spec.offset) == (False, False)


def test_the_source_of_the_arrays_does_not_matter(tmp_path):
    state = {"running_mean": torch.ones(2), "running_var": torch.full((2,), 3.0)}
    save_file(state, tmp_path / "x")
    sources = [
        state,
        {name: tensor.numpy() for name, tensor in state.items()},
        checkpoints.read(tmp_path / "x").arrays,
    ]
    for source in sources:
        (layer,) = dialect.read_arrays(source)
        wanted = State(running_mean=np.ones(2, "f4"), running_var=np.full(2, 3, "f4"))
        assert layer.state.identical(wanted)
        assert layer.name == ""


@pytest.mark.parametrize(("counter", "batches"), [([7], 7), (5.7, 5), (0, 0)])
def test_counters_are_read_as_torch_loads_them(counter, batches):
    arrays = {
        "running_mean": torch.ones(2),
        "running_var": torch.ones(2),
        "num_batches_tracked": torch.tensor(counter),
    }
    assert dialect.read_layer(arrays, "").state.batches == batches


def test_names_that_only_look_alike_are_no_layers():
    names = ["a.running_mean", "b.running_var", "xrunning_mean", "xrunning_var", "bn.weight"]
    assert dialect.find_layers(names) == []


@pytest.mark.parametrize(
    ("key", "tensor", "why"),
    [
        ("bn.running_var", torch.ones(3), "number of channels|per channel"),
        ("bn.running_mean", torch.ones(2, 2), "per channel"),
        ("bn.weight", torch.ones(2, dtype=torch.int64), "known are"),
        ("bn.num_batches_tracked", torch.tensor(float("nan")), "one finite number"),
        ("bn.num_batches_tracked", torch.tensor(-1), "whole number >= 0"),
    ],
)
def test_a_damaged_layer_is_named(key, tensor, why):
    arrays = {"bn.running_mean": torch.ones(2), "bn.running_var": torch.ones(2), key: tensor}
    with pytest.raises(EvenkeelError, match=why) as caught:
        dialect.read_arrays(arrays)
    assert "read bn of a state dict" in str(caught.value)


@pytest.mark.parametrize("kind", ["BatchNorm2d", "BatchNormAct2d"])
def test_evenkeels_own_layers_are_read(kind):
    from evenkeel import nn as own

    module = filled(getattr(own, kind)(3, eps=1e-4, momentum=0.2, variance="biased"))
    spec, state = dialect.read_module(module)
    assert (spec.eps, spec.momentum, spec.variance) == (1e-4, Momentum(0.2, "new"), "biased")
    assert spec.rank == 4
    assert spec.activation.name == ("relu" if kind == "BatchNormAct2d" else "identity")
    assert "class" not in spec.options
    assert state.running_mean.tolist() == module.running_mean.tolist()
