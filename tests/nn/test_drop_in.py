"""The plain layers stand in for torch's: type, state_dict, numbers, settings, errors."""

import copy
import inspect
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import evenkeel as ek
from evenkeel.errors import ChannelError, DTypeError, InputError, ShapeError

RANKS = (1, 2, 3)


def pair(rank, **settings_):
    ours = getattr(ek.nn, f"BatchNorm{rank}d")(3, **settings_)
    theirs = getattr(torch.nn, f"BatchNorm{rank}d")(3, **settings_)
    if ours.affine:
        with torch.no_grad():
            for layer in (ours, theirs):
                layer.weight.copy_(torch.tensor([0.5, -1.5, 2.0]))
                if layer.bias is not None:
                    layer.bias.copy_(torch.tensor([0.1, 0.0, -3.0]))
    return ours, theirs


def step(layer, x, dy):
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(dy)
    gradients = [x.grad, *(p.grad for p in layer.parameters())]
    return [y.detach(), *gradients, *(b.double() for b in layer.buffers())]


@pytest.mark.parametrize("rank", RANKS)
def test_same_class_signature_and_keys(rank):
    ours, theirs = pair(rank)
    assert isinstance(ours, type(theirs))
    assert isinstance(ours, torch.nn.modules.batchnorm._BatchNorm)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.state_dict()._metadata[""] == theirs.state_dict()._metadata[""]
    wanted = inspect.signature(type(theirs)).parameters
    has = inspect.signature(type(ours)).parameters
    positional = [n for n, p in wanted.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert [n for n in has if n in positional] == positional
    assert all(has[n].default == wanted[n].default for n in positional)
    assert len(list(ours.buffers())) == 3


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"momentum": None},
        {"momentum": 0.0},
        {"momentum": 1.0},
        {"affine": False},
        {"bias": False},
        {"track_running_stats": False},
        {"eps": 0.3},
        {"dtype": torch.float64},
    ],
    ids=str,
)
def test_three_steps_and_inference_equal_torch(rank, settings_):
    ours, theirs = pair(rank, **settings_)
    dtype = settings_.get("dtype", torch.float32)
    unit = torch.finfo(dtype).eps
    generator = torch.Generator().manual_seed(rank)
    for _ in range(3):
        x = torch.randn(6, 3, *[4] * rank, generator=generator).to(dtype)
        x = x[..., 0] if rank == 1 else x
        dy = torch.randn(x.shape, generator=generator).to(dtype)
        for got, want in zip(step(ours, x, dy), step(theirs, x, dy), strict=True):
            # both sides are within 16 units of sums of at most |x| n ~ 400 values
            assert (got - want).abs().max() <= 64 * unit * want.abs().max().clamp(min=1)
    ours.eval()
    theirs.eval()
    assert torch.equal(ours.train(False)(x), ours(x))
    assert (ours(x) - theirs(x)).abs().max() <= 64 * unit * theirs(x).abs().max()


def test_evaluation_is_bitwise_torch():
    ours, theirs = pair(2)
    theirs(torch.randn(8, 3, 5, 5))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("rank", RANKS)
def test_state_dicts_load_both_ways(rank):
    ours, theirs = pair(rank)
    ours(torch.randn(4, 3, *[2] * rank))
    theirs.load_state_dict(ours.state_dict())
    fresh = type(ours)(3)
    fresh.load_state_dict(theirs.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value), name
    old = {k: v for k, v in theirs.state_dict().items() if k != "num_batches_tracked"}
    fresh.load_state_dict(dict(old))  # written before version 2


@given(
    n=st.integers(1, 6),
    c=st.integers(1, 20),
    spatial=st.lists(st.integers(1, 5), max_size=3),
    seed=st.integers(0, 999),
    offset=st.sampled_from([0.0, 1.0, -3e3, 1e6]),
    permute=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_against_the_law(n, c, spatial, seed, offset, permute):
    shape = (n, c, *spatial)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + offset
    if x.numel() == c:
        return
    if permute:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    layer = {0: ek.nn.BatchNorm1d, 1: ek.nn.BatchNorm1d, 2: ek.nn.BatchNorm2d}.get(
        len(spatial), ek.nn.BatchNorm3d
    )(c)
    want, moments = ek.reference.forward(x.reshape(n, c, -1).double().numpy())
    got = layer(x).detach().reshape(n, c, -1).double().numpy()
    scale = abs(want).max()
    assert abs(got - want).max() <= 1e-6 * max(scale, 1.0)
    count = x.numel() // c
    unbiased = torch.from_numpy(moments.var) * count / (count - 1)
    assert torch.allclose(layer.running_var.double(), 0.9 + 0.1 * unbiased, rtol=1e-6, atol=0)


def test_biased_variance_stores_the_biased_variance():
    x = torch.tensor([[0.0], [2.0]])
    biased = ek.nn.BatchNorm1d(1, momentum=1.0, variance="biased")
    unbiased = ek.nn.BatchNorm1d(1, momentum=1.0)
    biased(x)
    unbiased(x)
    assert biased.running_var.item() == 1.0
    assert unbiased.running_var.item() == 2.0
    assert "variance='biased'" in repr(biased)
    assert "variance" not in repr(unbiased)


def test_initial_weight_and_bias():
    layer = ek.nn.BatchNorm2d(4, weight_init=0.0, bias_init=torch.nn.init.ones_)
    assert torch.equal(layer.weight, torch.zeros(4))
    assert torch.equal(layer.bias, torch.ones(4))
    with torch.no_grad():
        layer.weight.fill_(7)
    layer.reset_parameters()
    assert torch.equal(layer.weight, torch.zeros(4))


@pytest.mark.parametrize("rank", RANKS)
def test_wrong_rank(rank):
    ours, theirs = pair(rank)
    for shape in {(3,), (2, 3), (2, 3, 4), (2, 3, 4, 4), (2, 3, 4, 4, 4)}:
        x = torch.randn(shape)
        try:
            theirs(x)
        except ValueError:
            with pytest.raises(ShapeError, match=rf"(?s){rank}d.*got: {len(shape)}D.*do:"):
                ours(x)
        else:
            ours(x)


def test_one_value_per_channel_raises_what_torch_raises():
    for layer in (torch.nn.BatchNorm1d(3), ek.nn.BatchNorm1d(3)):
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            layer(torch.randn(1, 3))
        if isinstance(layer, ek.nn.BatchNorm1d):
            assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
    assert ek.nn.BatchNorm1d(3).eval()(torch.randn(1, 3)).shape == (1, 3)


def test_wrong_channels_is_a_runtime_error_that_says_how_to_permute():
    layer = ek.nn.BatchNorm2d(3)
    with pytest.raises(ChannelError, match=r"(?s)3 channels.*got: 4 channels.*movedim") as error:
        layer(torch.randn(2, 4, 4, 3))
    assert isinstance(error.value, RuntimeError)
    assert int(layer.num_batches_tracked) == 0


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_integer_and_complex_input(dtype):
    with pytest.raises(DTypeError, match=rf"(?s)got: +dtype {dtype}") as error:
        ek.nn.BatchNorm1d(3)(torch.ones(4, 3).to(dtype))
    assert isinstance(error.value, NotImplementedError)


def test_mixed_dtypes_are_refused_where_torch_refuses():
    layer = ek.nn.BatchNorm1d(3)
    with pytest.raises(RuntimeError):
        torch.nn.BatchNorm1d(3)(torch.randn(4, 3).double())
    with pytest.raises(RuntimeError, match=r"input torch\.float64, parameters torch\.float32"):
        layer(torch.randn(4, 3).double())


@pytest.mark.parametrize("name", ["variance", "nonfinite"])
def test_unknown_setting(name):
    with pytest.raises(InputError, match=f"{name}='half'"):
        ek.nn.BatchNorm1d(3, **{name: "half"})


def test_copies_keep_everything():
    layer = ek.nn.BatchNormAct2d(3, activation=("leaky_relu", 0.2), variance="biased")
    x = torch.randn(4, 3, 2, 2)
    layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), copy.deepcopy(layer)(x))
        assert repr(twin) == repr(layer)


def test_lazy_layers_become_ours():
    for rank in RANKS:
        layer = getattr(ek.nn, f"LazyBatchNorm{rank}d")(momentum=None, variance="biased")
        assert isinstance(layer, getattr(torch.nn, f"LazyBatchNorm{rank}d"))
        layer(torch.randn(4, 5, *[2] * rank))
        assert type(layer) is getattr(ek.nn, f"BatchNorm{rank}d")
        assert (layer.num_features, layer.variance, layer.momentum) == (5, "biased", None)
        assert int(layer.num_batches_tracked) == 1


def test_lazy_layer_knows_its_channels_after_loading():
    layer = ek.nn.LazyBatchNorm2d()
    layer.load_state_dict(ek.nn.BatchNorm2d(5).state_dict())
    layer(torch.randn(2, 5, 3, 3))
    assert layer.num_features == 5


def test_frozen():
    trained = ek.nn.BatchNorm2d(3)
    trained(torch.randn(8, 3, 4, 4) * 2 + 1)
    frozen = ek.nn.FrozenBatchNorm.from_batch_norm(trained)
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    before = copy.deepcopy(frozen.state_dict())
    assert torch.equal(frozen.train()(x), trained.eval()(x))
    frozen(x).sum().backward()
    assert all(torch.equal(before[k], v) for k, v in frozen.state_dict().items())
    assert list(frozen.parameters()) == []
    assert set(frozen.state_dict()) == set(trained.state_dict())
    trained.load_state_dict(frozen.state_dict())
    assert not isinstance(frozen, torch.nn.modules.batchnorm._BatchNorm)
    for settings_ in ({"affine": False}, {"bias": False}, {"dtype": torch.bfloat16}):
        layer = ek.nn.BatchNorm1d(3, **settings_).eval()
        y = ek.nn.FrozenBatchNorm.from_batch_norm(layer)(torch.ones(2, 3).to(layer_dtype(layer)))
        assert torch.equal(y, layer(torch.ones(2, 3).to(layer_dtype(layer))))


def layer_dtype(layer):
    return layer.weight.dtype if layer.weight is not None else torch.float32


def test_what_is_no_tensor_is_refused_by_name():
    layer = ek.nn.BatchNormAct1d(3)
    x = torch.randn(4, 3)
    for arguments, name in (
        (([[1.0]],), "input"),
        ((x, [1.0]), "residual"),
        ((x, x, [True]), "mask"),
    ):
        with pytest.raises(TypeError, match=rf"(?s){name} as a torch tensor.*got: list"):
            layer(*arguments)


def test_an_unknown_argument_names_the_layer():
    with pytest.raises(TypeError, match=r"BatchNorm2d.* unexpected keyword argument 'foo'"):
        ek.nn.BatchNorm2d(3, foo=1)
