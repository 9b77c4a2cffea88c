"""Live Flax models, NNX and Linen, as networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from flax.core import freeze

from evenkeel.dialects import flax as dialect
from evenkeel.dialects._open import open_network
from evenkeel.errors import DTypeError, InputError, ShapeError, UnsayableError
from evenkeel.integrations.flax import BatchNorm
from evenkeel.spec import Momentum, Spec

#: Unit round-off of float32.
U = 2.0**-24


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.up = nnx.ConvTranspose(4, 6, (3, 3), strides=(2, 2), rngs=rngs)
        self.group = nnx.GroupNorm(6, 3, rngs=rngs)
        self.slope = nnx.PReLU()
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.body = nnx.Sequential(nnx.Linear(6, 5, rngs=rngs), nnx.LayerNorm(5, rngs=rngs))
        self.more = nnx.List([nnx.Linear(5, 5, rngs=rngs)])
        self.gain = nnx.Param(jnp.ones(5))

    def __call__(self, x):
        x = self.up(nnx.relu(self.norm(self.stem(x))))
        x = self.drop(self.slope(self.group(x)))
        x = self.more[0](self.body(x.mean(1)))
        return self.more[0](x) * self.gain


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(4, (3, 3), strides=2, name="stem")(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = linen.ConvTranspose(6, (3, 3), strides=(2, 2), name="up")(linen.relu(x))
        x = linen.PReLU(name="slope")(linen.GroupNorm(3, name="group")(x))
        x = linen.Dropout(0.5, deterministic=not train)(x)
        x = linen.LayerNorm(name="body/1")(linen.Dense(5, name="body")(x.mean(1)))
        again = linen.Dense(5, name="more")
        return again(again(x)) * self.param("gain", linen.initializers.ones, (5,))


def picture(n: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(0.5, 2, (n, 8, 8, 3)).astype(np.float32)


def nnx_net():
    return NnxNet(nnx.Rngs(0))


def linen_net():
    module = LinenNet()
    return module, module.init(jax.random.key(0), picture(2), train=False)


NETS = pytest.mark.parametrize("make", [nnx_net, linen_net], ids=["nnx", "linen"])


def half_square(output):
    return 0.5 * float(np.square(output).sum()), output


def values(network) -> dict:
    return {x.name: {r: a.read() for r, a in x.arrays.items()} for x in network.layers()}


def opened(model):
    """The network after its first input, from which Linen's layers are known."""
    network = dialect.open_network(model)
    network.canonical_inputs(picture())
    return network


def randomized(network) -> None:
    """Nothing is as a fresh model has it; also what stands still in a fresh model shows."""
    generator = np.random.default_rng(1)
    new = {
        name: {
            role: array + generator.uniform(0.1, 0.4, array.shape).astype(array.dtype)
            for role, array in roles.items()
        }
        for name, roles in values(network).items()
    }
    for roles in new.values():
        if roles.get("bias", np.zeros(1)).ndim == 2:
            roles["bias"][1, 8:] = 0  # NNX's GRU cell has no such bias
    network.write(new)


@NETS
def test_layers_have_kinds_settings_and_names(make):
    network = opened(make())
    layers = {layer.name: layer for layer in network.layers()}
    kinds = {layer.kind for layer in layers.values()}
    assert kinds == {"conv", "batch_norm", "conv_transpose", "group_norm", "prelu", "dense",
                     "layer_norm", "other"}  # fmt: skip
    assert layers["stem"].settings == {
        "strides": (2, 2), "dilation": (1, 1), "padding": "same", "groups": 1,
    }  # fmt: skip
    assert layers["stem"].shapes == {"kernel": (3, 3, 3, 4), "bias": (4,)}
    assert layers["up"].shapes["kernel"] == (3, 3, 6, 4)
    assert layers["group"].settings == {"eps": 1e-6, "groups": 3}
    assert layers["slope"].shapes == {"alpha": (1,)}
    assert layers[""].shapes == {"gain": (5,)}
    spec = layers["norm"].spec
    assert spec.momentum == Momentum(0.9, "old")
    assert not spec.statistics_frozen
    assert layers["norm"].assumed == ()


@NETS
def test_a_trace_lists_the_calls_in_order_and_changes_nothing(make):
    model = make()
    network = opened(model)
    randomized(network)
    before = values(network)
    trace = network.trace(picture())
    names = [call.layer for call in trace.calls]
    body = ["body/layers/0", "body/layers/1", "more/0", "more/0"]
    wanted = body if make is nnx_net else ["body", "body/1", "more", "more"]
    assert names == ["stem", "norm", "up", "group", "slope", *wanted]
    stem = trace.calls[0]
    assert stem.input.shape == (6, 8, 8, 3)
    assert stem.output.shape == (6, 4, 4, 4)
    norm = trace.calls[1]
    np.testing.assert_array_equal(norm.input, stem.output)
    after = values(network)
    for name, roles in before.items():
        for role, array in roles.items():
            np.testing.assert_array_equal(after[name][role], array)
    if make is nnx_net:
        assert type(model.norm) is nnx.BatchNorm
        assert not model.norm.use_running_average
        assert type(model.drop) is nnx.Dropout


@NETS
def test_a_trace_is_what_the_framework_computes(make):
    model = make()
    network = opened(model)
    randomized(network)
    output = network.trace(picture()).output
    if make is nnx_net:
        model.eval()
        expected = model(picture())
    else:
        expected = model[0].apply(model[1], picture(), train=False)
    np.testing.assert_allclose(output, expected, rtol=64 * U, atol=64 * U)


def _by_hand(make, model, x):
    """Gradients and statistics as a user of the framework takes them, dropout left out."""
    if make is nnx_net:
        model = nnx.clone(model)
        model.drop.rate = 0.0
        model.train()
        gradients = nnx.grad(lambda model: 0.5 * jnp.square(model(x)).sum())(model)
        return gradients["stem"]["kernel"][...], gradients["gain"][...], model.norm.var[...]
    module, variables = model
    state = variables["batch_stats"]

    def loss(params):
        with linen.intercept_methods(_no_dropout):
            output, updated = module.apply(
                {"params": params, "batch_stats": state}, x, train=True, mutable=["batch_stats"]
            )
        return 0.5 * jnp.square(output).sum(), updated

    gradients, updated = jax.grad(loss, has_aux=True)(variables["params"])
    return gradients["stem"]["kernel"], gradients["gain"], updated["batch_stats"]["norm"]["var"]


def _no_dropout(function, args, kwargs, context):
    return args[0] if isinstance(context.module, linen.Dropout) else function(*args, **kwargs)


@NETS
def test_a_step_gives_gradients_and_statistics_of_the_framework(make):
    model = make()
    network = opened(model)
    randomized(network)
    kernel, gain, var = _by_hand(make, model, picture())
    parameters = values(network)
    step = network.step(picture(), half_square)
    assert step.remarks == ("Dropout was switched off.",)
    assert step.loss == pytest.approx(half_square(step.output)[0])
    bound = 256 * U
    scale = np.abs(kernel).max()
    np.testing.assert_allclose(step.gradients["stem"]["kernel"], kernel, atol=bound * scale)
    np.testing.assert_allclose(step.gradients[""]["gain"], gain, rtol=bound)
    np.testing.assert_allclose(step.statistics["norm"]["running_var"], var, rtol=bound)
    after = values(network)
    np.testing.assert_array_equal(after["norm"]["running_var"],
                                  step.statistics["norm"]["running_var"])  # fmt: skip
    assert not np.array_equal(after["norm"]["running_mean"], parameters["norm"]["running_mean"])
    np.testing.assert_array_equal(after["stem"]["kernel"], parameters["stem"]["kernel"])
    trained = {(name, role) for name, roles in parameters.items() for role in roles}
    trained -= {("norm", "running_mean"), ("norm", "running_var")}
    assert {(n, r) for n, roles in step.gradients.items() for r in roles} == trained


@NETS
def test_double_computes_in_float64_and_leaves_the_original(make):
    network = opened(make())
    randomized(network)
    double = network.double()
    trace, wide = network.trace(picture()), double.trace(picture())
    assert wide.output.dtype == np.float64
    assert all(call.output.dtype == np.float64 for call in wide.calls)
    error = np.abs(trace.output - wide.output).max()
    assert 0 < error < 1e-4 * np.abs(wide.output).max()
    step = double.step(picture(), half_square)
    assert {array.dtype for roles in step.gradients.values() for array in roles.values()} == {
        np.dtype(np.float64)
    }
    # A derivative by finite differences, which float32 could not resolve.
    kernel = values(double)["stem"]["kernel"]
    moved = np.zeros_like(kernel)
    moved[0, 1, 2, 3] = 1e-6
    losses = []
    for sign in (1, -1):
        double.write({"stem": {"kernel": kernel + sign * moved}})
        losses.append(double.step(picture(), half_square).loss)
    slope = (losses[0] - losses[1]) / 2e-6
    assert slope == pytest.approx(step.gradients["stem"]["kernel"][0, 1, 2, 3], rel=1e-5)
    assert network.trace(picture()).output.dtype == np.float32
    assert not jax.config.read("jax_enable_x64")


@NETS
def test_what_is_written_is_read_again_and_types_stay(make):
    network = opened(make())
    new = values(network)
    new["stem"]["kernel"] = np.random.default_rng(2).normal(size=(3, 3, 3, 4))
    network.write({"stem": {"kernel": new["stem"]["kernel"]}})
    again = values(network)["stem"]["kernel"]
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, new["stem"]["kernel"].astype(np.float32))


@NETS
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"nothing": {"kernel": np.zeros(1)}}, InputError),
        ({"stem": {"recurrent": np.zeros(1)}}, InputError),
        ({"stem": {"bias": np.zeros(5)}}, ShapeError),
    ],
)
def test_all_or_nothing_is_written(make, wrong, error):
    network = opened(make())
    before = values(network)
    good = {"norm": {"weight": np.full(4, 7.0)}}
    with pytest.raises(error):
        network.write({**good, **wrong})
    np.testing.assert_array_equal(values(network)["norm"]["weight"], before["norm"]["weight"])


def test_an_nnx_gru_refuses_a_recurrent_bias_before_anything_is_written():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(3, 3, rngs=rngs), nnx.RNN(nnx.GRUCell(3, 4, rngs=rngs)))
    network = dialect.open_network(model)
    bias = np.zeros((2, 12))
    bias[1, 8:] = 0.5
    with pytest.raises(UnsayableError, match=r"0\.5"):
        network.write({"layers/0": {"bias": np.ones(3)}, "layers/1/cell": {"bias": bias}})
    assert not values(network)["layers/0"]["bias"].any()


@pytest.mark.parametrize(
    "cell",
    [
        "SimpleCell",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("LSTMCell", "OptimizedLSTMCell", "GRUCell")
        ),
    ],
)
def test_cells_of_nnx_and_linen_compute_alike_from_the_same_canonical_arrays(cell):
    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.RNN(getattr(nnx, cell)(3, 4, rngs=rngs))

        def __call__(self, x):
            return self.rnn(x, rngs=nnx.Rngs(0))

    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    module = linen.RNN(getattr(linen, cell)(4))
    theirs = dialect.open_network((module, module.init(jax.random.key(0), x)))
    theirs.trace(x)
    ours = dialect.open_network(Nnx(nnx.Rngs(0)))
    randomized(ours)
    (layer,), (other,) = ours.layers(), theirs.layers()
    assert layer.kind == other.kind != "other"
    theirs.write({other.name: values(ours)[layer.name]})
    mine, trace = ours.trace(x), theirs.trace(x)
    np.testing.assert_allclose(mine.output, trace.output, rtol=16 * U, atol=16 * U)
    np.testing.assert_array_equal(mine.calls[0].output, mine.output)
    assert [call.layer for call in trace.calls] == [other.name]
    slopes = [net.step(x, half_square).gradients for net in (ours, theirs)]
    for role, slope in slopes[0][layer.name].items():
        there = slopes[1][other.name][role].copy()
        if layer.kind == "gru" and role == "bias":
            there[1, 8:] = 0
        np.testing.assert_allclose(slope, there, rtol=0, atol=256 * U * np.abs(slope).max())


@pytest.mark.parametrize("transposed", [False, True])
def test_transposed_convolutions_are_canonical_either_way(transposed):
    def net(flag):
        return nnx.ConvTranspose(
            2, 3, (3, 2), strides=(2, 1), padding="VALID", transpose_kernel=flag, rngs=nnx.Rngs(0)
        )

    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2)).astype(np.float32)
    one, other = (dialect.open_network(net(flag)) for flag in (transposed, not transposed))
    (layer,) = one.layers()
    assert layer.shapes["kernel"] == (3, 2, 3, 2)
    assert layer.settings["padding"] == "valid"
    other.write(values(one))
    np.testing.assert_allclose(one.trace(x).output, other.trace(x).output, rtol=16 * U, atol=16 * U)


def test_explicit_padding_of_a_transposed_convolution_is_what_is_cut_off():
    layer = nnx.ConvTranspose(2, 3, (4, 3), padding=((2, 1), (1, 1)), rngs=nnx.Rngs(0))
    (found,) = dialect.open_network(layer).layers()
    assert found.settings["padding"] == ((1, 2), (1, 1))
    output = layer(jnp.ones((1, 5, 5, 2)))
    full = (5 - 1) + 4, (5 - 1) + 3
    assert output.shape[1:3] == (full[0] - 3, full[1] - 2)


@pytest.mark.parametrize(
    "layer",
    [
        lambda rngs: nnx.Conv(2, 3, (3,), input_dilation=2, rngs=rngs),
        lambda rngs: nnx.Conv(2, 3, (3,), mask=jnp.ones((3, 2, 3)), rngs=rngs),
        lambda rngs: nnx.LinearGeneral(2, (3, 4), rngs=rngs),
        lambda rngs: nnx.RMSNorm(3, rngs=rngs),
        lambda rngs: nnx.LayerNorm(3, reduction_axes=(1, 2), feature_axes=-1, rngs=rngs),
        lambda rngs: nnx.SimpleCell(2, 3, residual=True, rngs=rngs),
        lambda rngs: nnx.LSTMCell(2, 3, activation_fn=nnx.relu, rngs=rngs),
    ],
)
def test_what_computes_something_else_is_of_unknown_kind(layer):
    made = layer(nnx.Rngs(0))

    class Net(nnx.Module):
        def __init__(self):
            self.inner = made

        def __call__(self, x):
            return x

    (only,) = dialect.open_network(Net()).layers()
    assert (only.kind, only.name) == ("other", "inner")
    assert only.settings["class"].endswith(type(made).__name__)


def test_configure_of_nnx_sets_what_it_can_and_keeps_the_object():
    model = nnx_net()
    network = dialect.open_network(model)
    layer, variable = model.norm, model.norm.mean
    assert network.configure("norm", Spec(4, eps=1e-3, momentum=Momentum(0.2, "new"))) == ()
    assert model.norm is layer
    assert layer.mean is variable
    assert type(layer) is BatchNorm
    assert (layer.epsilon, layer.momentum, layer.variance) == (1e-3, 0.8, "unbiased")
    # Whatever else the layer does stays as it was.
    assert (layer.nonfinite, layer.use_fast_variance) == ("propagate", True)
    x = picture()
    before = values(network)["norm"]["running_var"]
    step = network.step(x, half_square)
    batch = network.double().trace(x)  # the input of the layer depends on no statistics
    fed = next(call.input for call in batch.calls if call.layer == "norm")
    wanted = 0.8 * before + 0.2 * fed.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(step.statistics["norm"]["running_var"], wanted, rtol=1e-5)
    assert step.statistics["norm"]["batches"] == 1


def test_configure_names_what_a_subclass_cannot_say_and_changes_nothing():
    class Own(nnx.BatchNorm):
        pass

    network = dialect.open_network(Own(3, rngs=nnx.Rngs(0)))
    (item,) = network.configure("", Spec(3, eps=1e-3))
    assert item.field == "variance"
    assert network.model.epsilon == 1e-5
    spec = Spec(3, eps=1e-3, momentum=Momentum(0.5, "old"), variance="biased")
    assert network.configure("", spec) == ()
    assert (network.model.epsilon, network.model.momentum) == (1e-3, 0.5)


def test_linen_settings_are_in_the_code():
    network = opened(linen_net())
    same = Spec(4, eps=1e-5, momentum=Momentum(0.1, "new"), variance="biased")
    assert network.configure("norm", same) == ()
    found = network.configure("norm", Spec(4, eps=1e-3, momentum=Momentum(0.2, "new")))
    assert [item.field for item in found] == ["eps", "momentum", "variance"]
    assert "epsilon=0.001" in found[0].do
    assert "momentum=0.8" in found[1].do
    with pytest.raises(InputError, match="stem"):
        network.configure("stem", same)


def test_before_its_first_input_a_linen_model_is_told_by_names():
    network = dialect.open_network(linen_net())
    layers = {layer.name: layer for layer in network.layers()}
    assert layers["norm"].kind == "batch_norm"
    assert {"eps", "momentum"} <= {*layers["norm"].assumed}
    assert layers["group"].kind == layers["stem"].kind == "other"


def test_frozen_variables_are_refused_where_they_would_change():
    module, variables = linen_net()
    network = dialect.open_network((module, freeze(variables)))
    network.trace(picture())
    for change in (
        lambda: network.write({}),
        lambda: network.step(picture(), half_square),
    ):
        with pytest.raises(InputError, match="unfreeze"):
            change()


class Told(linen.Module):
    """A model that is told the mode in its own way."""

    argument: str

    @linen.compact
    def __call__(self, x, **mode):
        running = mode[self.argument] == (self.argument in {"deterministic", "frozen"})
        return linen.BatchNorm(use_running_average=running)(x)


class Fielded(linen.Module):
    train: bool = False

    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=not self.train)(x)


class Bare(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.BatchNorm(use_running_average=False)(x)


class Thawed(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x, training):
        return self.norm(x, use_running_average=not training)


ROWS = np.random.default_rng(0).normal(3, 1, (8, 3)).astype(np.float32)


def _moves(network) -> bool:
    name = next(layer.name for layer in network.layers() if layer.kind == "batch_norm")
    return bool(network.step(ROWS, half_square).statistics[name]["running_mean"].any())


def test_the_mode_is_given_by_a_known_argument_a_field_or_as_the_caller_says():
    fielded = Fielded()
    variables = fielded.init(jax.random.key(0), ROWS)
    told = Told("is_it_training")
    given = told.init(jax.random.key(0), ROWS, is_it_training=False)
    for model in (
        (fielded, variables),
        (told, given, {"is_it_training": True}),
        Thawed(nnx.Rngs(0)),
    ):
        network = open_network(model)
        output = network.trace(ROWS).output
        np.testing.assert_allclose(output, ROWS / np.sqrt(1 + 1e-5), rtol=4 * U)
        assert _moves(network)


def test_a_model_whose_mode_is_unknown_is_refused():
    module = Bare()
    network = dialect.open_network((module, module.init(jax.random.key(0), ROWS)))
    with pytest.raises(InputError, match="in training mode"):
        network.trace(ROWS)
    with pytest.raises(InputError, match="takes no nothing"):
        dialect.open_network((module, module.init(jax.random.key(0), ROWS), {"nothing": True}))


@pytest.mark.parametrize("make", ["nnx", "linen"])
def test_frozen_statistics_stay_in_a_step(make):
    if make == "nnx":
        model = nnx.Sequential(
            nnx.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0)),
            nnx.BatchNorm(3, rngs=nnx.Rngs(0)),
        )
    else:
        module = linen.Sequential([linen.BatchNorm(True), linen.BatchNorm(True)])
        model = module, module.init(jax.random.key(0), ROWS)
    network = dialect.open_network(model)
    network.trace(ROWS)
    first = network.layers()[0]
    assert first.spec.statistics_frozen
    assert "use_running_average" not in first.spec.options
    assert not network.step(ROWS, half_square).statistics[first.name]["running_mean"].any()


def test_a_shared_layer_is_one_layer_with_two_calls():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.one = nnx.Linear(3, 3, rngs=rngs)
            self.other = self.one

        def __call__(self, x):
            return self.other(self.one(x))

    network = dialect.open_network(Net(nnx.Rngs(0)))
    assert [layer.name for layer in network.layers()] == ["one"]
    assert [call.layer for call in network.trace(ROWS).calls] == ["one", "one"]


def test_calls_inside_compiled_code_are_seen():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return nnx.jit(lambda dense, x: dense(x))(self.dense, x)

    calls = dialect.open_network(Net(nnx.Rngs(0))).trace(ROWS).calls
    assert [call.layer for call in calls] == ["dense"]


def test_a_batch_norm_over_another_axis_is_traced_channels_last():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(3, axis=1, rngs=rngs)

        def __call__(self, x):
            return self.norm(x)

    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    (call,) = dialect.open_network(Net(nnx.Rngs(0))).trace(x).calls
    np.testing.assert_array_equal(call.input, np.moveaxis(x, 1, -1))
    assert call.output.shape == (2, 4, 5, 3)


def test_token_numbers_stay_as_they_are():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.table = nnx.Embed(7, 3, rngs=rngs)

        def __call__(self, tokens):
            return self.table(tokens).mean(1)

    tokens = np.array([[1, 2], [3, 6]])
    network = dialect.open_network(Net(nnx.Rngs(0)))
    assert network.canonical_inputs(tokens).dtype == tokens.dtype
    (call,) = network.trace(tokens).calls
    assert call.input.dtype.kind == "i"
    slope = network.step(tokens, half_square).gradients["table"]["embedding"]
    assert sorted(np.flatnonzero(slope.any(1))) == [1, 2, 3, 6]


@NETS
def test_inputs_that_the_model_does_not_take_are_refused(make):
    network = dialect.open_network(make())
    with pytest.raises(InputError, match=r"float32 of shape \(2, 8, 8, 5\)"):
        network.canonical_inputs(np.zeros((2, 8, 8, 5), np.float32))


def test_a_model_that_fixes_its_type_cannot_compute_in_float64():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.dense(x).astype(jnp.float32)

    with pytest.raises(DTypeError, match="float32"):
        dialect.open_network(Net(nnx.Rngs(0))).double().trace(ROWS)


def test_types_that_layers_fix_are_widened():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(2, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)(x)

    module = Net()
    network = dialect.open_network((module, module.init(jax.random.key(0), ROWS)))
    (layer,) = network.layers()
    assert layer.arrays["kernel"].dtype == "bfloat16"
    assert layer.arrays["kernel"].read().dtype == np.float32
    assert network.double().trace(ROWS).output.dtype == np.float64


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: (LinenNet(), {"weights": 1}), "comes with its variables"),
        (LinenNet, "comes with its variables"),
        (lambda: (nnx_net(), {"train": 1}), "mode argument"),
        (lambda: linen.LSTMCell(3), "comes with its variables"),
    ],
)
def test_what_cannot_be_opened_is_refused(model, match):
    with pytest.raises(InputError, match=match):
        dialect.open_network(model())


def test_several_inputs_and_several_outputs_are_refused():
    with pytest.raises(InputError, match="carry, inputs"):
        dialect.open_network(nnx.SimpleCell(2, 3, rngs=nnx.Rngs(0)))

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.dense(x), x

    with pytest.raises(InputError, match="one array"):
        dialect.open_network(Net(nnx.Rngs(0))).canonical_inputs(ROWS)
