"""Nothing poisons the statistics: NaN, Inf, empty batches, masks, and how a batch enters."""

import warnings

import pytest
import torch

import evenkeel as ek
from evenkeel.errors import (
    DTypeError,
    InputError,
    NonFiniteError,
    NonFiniteWarning,
    ShapeError,
    TransformError,
)
from evenkeel.nn import functional


def batch(seed=0):
    return torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(seed))


def poisoned(value=float("nan")):
    x = batch()
    x[2, 1, 3] = value
    return x


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_non_finite_batch_stays_out(value, dtype):
    layer = ek.nn.BatchNorm1d(3).to(dtype)
    layer(batch().to(dtype))
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    with pytest.warns(NonFiniteWarning, match=r"(?s)BatchNorm1d\(3\).*1 batch with NaN.*raise"):
        y = layer(poisoned(value).to(dtype))
    assert not y[:, 1].isfinite().any()
    assert y[:, 0].isfinite().all()
    for name, value_ in layer.state_dict().items():
        assert torch.equal(before[name], value_), name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(poisoned(value).to(dtype))  # warned once, counted on
        layer.eval()
    assert layer.nonfinite_batches == 2


def test_the_warning_points_at_the_users_line():
    layer = ek.nn.BatchNorm1d(3)
    with pytest.warns(NonFiniteWarning) as seen:
        layer(poisoned())
    assert seen[0].filename == __file__


def test_propagate_and_strict_do_as_torch_does():
    strict, propagate, theirs = ek.nn.BatchNorm1d(3), None, torch.nn.BatchNorm1d(3)
    propagate = ek.nn.BatchNorm1d(3, nonfinite="propagate")
    theirs(poisoned())
    propagate(poisoned())
    with ek.nn.strict_torch():
        strict(poisoned())
    for layer in (strict, propagate):
        assert layer.running_mean.isnan().tolist() == theirs.running_mean.isnan().tolist()
        assert int(layer.num_batches_tracked) == 1


def test_raise_leaves_the_statistics_alone():
    layer = ek.nn.BatchNorm1d(3, nonfinite="raise")
    with pytest.raises(NonFiniteError, match=r"channels \[1\] of 3"):
        layer(poisoned())
    assert int(layer.num_batches_tracked) == 0
    assert layer.running_mean.isfinite().all()


def test_raise_is_refused_by_a_compiler_with_a_reason():
    layer = ek.nn.BatchNorm1d(3, nonfinite="raise")
    torch._dynamo.reset()
    with pytest.raises(
        (TransformError, torch._dynamo.exc.TorchDynamoException), match=r"eager|skip"
    ):
        torch.compile(layer, backend="eager", fullgraph=True)(batch())


def test_compiled_steps_count_and_warn_when_training_ends():
    layer = ek.nn.BatchNorm1d(3)
    torch._dynamo.reset()
    run = torch.compile(layer, backend="aot_eager", fullgraph=True)
    run(batch())
    run(poisoned())
    run(poisoned())
    assert layer.nonfinite_batches == 2
    assert int(layer.num_batches_tracked) == 1
    with pytest.warns(NonFiniteWarning, match="2 batches"):
        layer.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.eval()
    assert "skipped" not in str(list(layer.state_dict()))
    assert len(list(layer.buffers())) == 3


def test_huge_but_finite_values_are_no_reason_to_skip():
    layer = ek.nn.BatchNorm1d(1, momentum=1.0)
    layer(torch.tensor([[1e18], [-1e18]]))
    assert layer.running_var.item() == pytest.approx(2e36)
    assert layer.nonfinite_batches == 0


@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_batch_changes_nothing(momentum):
    layer = ek.nn.BatchNorm1d(3, momentum=momentum)
    x = torch.empty(0, 3, 4, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad.tolist() == [0, 0, 0]
    assert int(layer.num_batches_tracked) == 0
    with ek.nn.strict_torch():
        layer(x)
    assert int(layer.num_batches_tracked) == 1
    assert torch.equal(layer.running_mean, torch.zeros(3))


def test_strict_torch_casts_statistics_too():
    layer = ek.nn.BatchNorm1d(3)
    with ek.nn.strict_torch():
        assert layer.half().running_mean.dtype == torch.float16
        layer(batch().half())
    layer(batch().half())
    assert layer.running_mean.dtype == torch.float32


def test_a_mask_leaves_out_padding():
    layer = ek.nn.BatchNorm1d(3, momentum=1.0)
    x = batch()
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[:, :3] = True
    x[:, :, 3] = float("nan")
    x.requires_grad_()
    y = layer(x, mask)
    plain = torch.nn.BatchNorm1d(3, momentum=1.0)
    want = plain(x[:, :, :3])
    assert torch.allclose(y[:, :, :3], want, rtol=1e-5, atol=1e-6)
    assert torch.equal(y[:, :, 3], torch.zeros(5, 3))
    assert torch.allclose(layer.running_var, plain.running_var, rtol=1e-6)
    y.square().sum().backward()
    assert torch.equal(x.grad[:, :, 3], torch.zeros(5, 3))
    evaluated = layer.eval()(x, mask)
    assert torch.equal(evaluated[:, :, 3], torch.zeros(5, 3))
    assert evaluated.isfinite().all()


@pytest.mark.parametrize("kept", [0, 1])
def test_a_mask_that_keeps_fewer_than_two_values_leaves_the_statistics_alone(kept):
    layer = ek.nn.BatchNorm1d(3, bias_init=7.0)
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask.view(-1)[:kept] = True
    y = layer(batch(), mask)
    assert y.sum().item() == 7 * 3 * kept
    assert int(layer.num_batches_tracked) == 0


def test_masks_of_the_wrong_kind():
    layer = ek.nn.BatchNorm1d(3)
    with pytest.raises(ShapeError, match=r"(?s)\(5, 4\).*got: +shape \(5, 3, 4\)"):
        layer(batch(), torch.ones(5, 3, 4, dtype=torch.bool))
    with pytest.raises(DTypeError, match=r"(?s)bool mask.*float32.*~mask"):
        layer(batch(), torch.ones(5, 4))
    assert int(layer.num_batches_tracked) == 0


def test_fused_layer_equals_its_parts():
    x, residual = batch(), batch(1)
    for activation in ek.spec.ACTIVATIONS:
        fused = ek.nn.BatchNormAct1d(3, activation=activation)
        parts = ek.nn.BatchNorm1d(3)
        apply = {
            "identity": torch.nn.Identity(), "relu": torch.nn.ReLU(),
            "leaky_relu": torch.nn.LeakyReLU(), "relu6": torch.nn.ReLU6(),
            "silu": torch.nn.SiLU(), "gelu": torch.nn.GELU(), "hardswish": torch.nn.Hardswish(),
            "elu": torch.nn.ELU(),
        }[activation]  # fmt: skip
        for mode in (True, False):
            got = fused.train(mode)(x, residual=residual)
            want = apply(parts.train(mode)(x) + residual)
            assert torch.allclose(got, want, rtol=2e-6, atol=2e-6), activation
        assert list(fused.state_dict()) == list(parts.state_dict())


def test_fused_layer_refuses_what_it_cannot_add():
    layer = ek.nn.BatchNormAct1d(3)
    with pytest.raises(ShapeError, match=r"(?s)residual.*got: +shape \(5, 3\)"):
        layer(batch(), batch()[:, :, 0])
    with pytest.raises(DTypeError, match="residual"):
        layer(batch(), batch().double())
    with pytest.raises(InputError, match=r"(?s)activation='swoosh'.*silu"):
        ek.nn.BatchNormAct1d(3, activation="swoosh")


def test_functional_form_is_pure():
    mean, var = torch.zeros(3), torch.ones(3)
    result = functional.batch_norm(batch(), mean, var, training=True)
    assert mean.tolist() == [0, 0, 0]
    layer = ek.nn.BatchNorm1d(3)
    layer(batch())
    assert torch.allclose(result.running_mean, layer.running_mean, rtol=1e-6)
    assert torch.allclose(result.running_var, layer.running_var, rtol=1e-6)
    skipped = functional.batch_norm(poisoned(), mean, var, training=True)
    assert torch.equal(skipped.running_mean, mean)
    with pytest.raises(NonFiniteError):
        functional.batch_norm(poisoned(), mean, var, training=True, nonfinite="raise")
    with pytest.raises(InputError, match="training=False"):
        functional.batch_norm(batch())
    same = functional.batch_norm(batch(), mean, var)
    assert same.running_mean is mean


def test_messages_name_the_layer_by_its_path():
    net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Sequential(ek.nn.BatchNorm1d(3)))
    with pytest.warns(NonFiniteWarning, match=r"BatchNorm1d\(3\) at '1\.0'"):
        net(poisoned())
    with pytest.raises(ShapeError, match=r"BatchNorm1d\(3\) at '1\.0': expected 2D or 3D"):
        net(torch.randn(2, 3, 4, 5))
    torch._dynamo.reset()
    again = torch.nn.Sequential(ek.nn.BatchNorm1d(3))
    torch.compile(again, backend="aot_eager")(poisoned())
    with pytest.warns(NonFiniteWarning, match=r"at '0'"):
        again.eval()


def test_raise_holds_without_running_statistics_too():
    layer = ek.nn.BatchNorm1d(3, track_running_stats=False, nonfinite="raise")
    with pytest.raises(NonFiniteError):
        layer(poisoned())
    with ek.nn.strict_torch():
        layer(poisoned())
        functional.batch_norm(poisoned(), training=True, nonfinite="raise")


def test_functional_form_refuses_what_is_no_tensor():
    with pytest.raises(DTypeError, match=r"(?s)functional\.batch_norm: input as a torch tensor"):
        functional.batch_norm([[1.0], [2.0]], training=True)


def test_functional_form_takes_what_a_layer_takes():
    mean, var, weight = torch.zeros(3), torch.ones(3), torch.ones(3).half()
    y = functional.batch_norm(batch().half(), mean, var, weight, weight).output
    assert y.dtype == torch.float16
    with pytest.raises(InputError, match="momentum=None"):
        functional.batch_norm(batch(), mean, var, training=True, momentum=None)


def test_a_layer_pickled_before_an_attribute_existed():
    layer = ek.nn.BatchNorm1d(3)
    state = {k: v for k, v in layer.__getstate__().items() if k not in {"_skipped", "variance"}}
    old = ek.nn.BatchNorm1d.__new__(ek.nn.BatchNorm1d)
    old.__setstate__(state)
    old(batch())
    assert (old.variance, old.nonfinite_batches) == ("unbiased", 0)


def test_cumulative_average_of_doubles_is_exact_when_compiled():
    layer = ek.nn.BatchNorm1d(3, momentum=None).double()
    torch._dynamo.reset()
    run = torch.compile(layer, backend="aot_eager")
    batches = [batch(seed).double() for seed in range(3)]
    for x in batches:
        run(x)
    mean = torch.stack([x.mean((0, 2)) for x in batches]).mean(0)
    assert torch.allclose(layer.running_mean, mean, rtol=1e-13, atol=1e-14)


def test_freezing_needs_statistics():
    with pytest.raises(InputError, match="without running statistics"):
        ek.nn.FrozenBatchNorm.from_batch_norm(ek.nn.BatchNorm1d(3, track_running_stats=False))


@pytest.mark.parametrize("activation", ["identity", "relu", "relu6", ("leaky_relu", 0.2)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("provider", ["cpu", "aten", "reference"])
def test_the_output_stands_for_the_residual_in_the_backward_pass(activation, masked, provider):
    torch.manual_seed(0)
    x, residual, dy = (torch.randn(6, 3, 4, 5, dtype=torch.float64) * 4 for _ in range(3))
    mask = torch.rand(6, 4, 5) < 0.7 if masked else None
    inputs = [t.requires_grad_() for t in (x, residual)]
    saved = []

    def keep(tensor):
        saved.append(tensor.untyped_storage().data_ptr())
        return tensor

    layer = ek.nn.BatchNormAct2d(3, activation=activation).double()
    with ek.kernels.use(provider):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = layer(x, residual, mask)
        first = torch.autograd.grad(y, inputs, dy, retain_graph=True)
        second = torch.autograd.grad(y, inputs, dy, create_graph=True)
    assert residual.untyped_storage().data_ptr() not in saved
    law = torch.nn.BatchNorm2d(3).double()
    plain = x if mask is None else x.where(mask[:, None], 0.0)
    if mask is None:
        z = law(plain) + residual
    else:
        kept = mask[:, None].expand_as(x)
        count = mask.sum()
        mean = plain.sum((0, 2, 3), keepdim=True) / count
        var = ((x - mean).square() * kept).sum((0, 2, 3), keepdim=True) / count
        z = (x - mean) * (var + 1e-5).rsqrt() + residual
    name, slope = activation if isinstance(activation, tuple) else (activation, 0.0)
    function = {
        "identity": lambda z: z,
        "relu": torch.relu,
        "relu6": torch.nn.functional.relu6,
        "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, slope),
    }[name]
    out = function(z) if mask is None else function(z).where(mask[:, None], 0.0)
    want = torch.autograd.grad(out, inputs, dy)
    for got in (first, second):
        for a, b in zip(got, want, strict=True):
            assert torch.allclose(a, b, rtol=1e-11, atol=1e-11)
