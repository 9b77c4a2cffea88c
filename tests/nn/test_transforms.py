"""The layers under everything torch does to modules: derivatives, compilers, exporters, casts."""

import copy
import io

import onnxruntime
import pytest
import torch
from torch.autograd import forward_ad
from torch.autograd.gradcheck import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import evenkeel as ek
from evenkeel.errors import TransformError
from evenkeel.nn import functional

ACTIVATIONS = ["identity", "silu", "gelu", ("leaky_relu", 0.2)]


def image(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (3, 2, 2, 3), dtype=torch.float64, generator=generator).to(dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("provider", ["aten", "cpu", "reference"])
def test_first_and_second_derivative(activation, provider):
    layer = ek.nn.BatchNormAct2d(2, activation=activation).double()
    mask = torch.ones(3, 2, 3, dtype=torch.bool)
    mask[0, 0, 1] = mask[2] = False

    def run(x, residual, weight, bias):
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, parameters, (x, residual, mask))

    inputs = [image().requires_grad_(), image(seed=1).requires_grad_()]
    inputs += [
        t.detach().double().requires_grad_() for t in (torch.tensor([0.7, -1.2]), torch.ones(2))
    ]
    with ek.kernels.use(provider):
        assert gradcheck(run, inputs)
        if provider == "aten":  # the second derivative runs on the composite whatever provider
            assert gradgradcheck(run, inputs)


def test_gradient_of_a_gradient_penalty_equals_torch():
    results = []
    for layer in (ek.nn.BatchNorm2d(2).double(), torch.nn.BatchNorm2d(2).double()):
        x = image().requires_grad_()
        (g,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        g.square().sum().backward()
        results.append((x.grad, layer.weight.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-9)


def test_forward_mode_drops_no_tangent():
    tangents = []
    for layer in (ek.nn.BatchNorm2d(2).double(), torch.nn.BatchNorm2d(2).double()):
        with forward_ad.dual_level():
            y = layer(forward_ad.make_dual(image(), image(seed=1)))
            tangents.append(forward_ad.unpack_dual(y).tangent)
    assert tangents[0] is not None
    assert torch.allclose(*tangents, rtol=1e-10, atol=1e-12)


def test_func_grad_vmap_jvp_hessian_of_the_functional_form():
    def ours(x):
        return functional.batch_norm(x, training=True).output.pow(3).sum()

    def theirs(x):
        return torch.nn.functional.batch_norm(x, None, None, training=True).pow(3).sum()

    x = image(4, 3)
    for transform in (torch.func.grad, torch.func.hessian, torch.func.jacfwd):
        assert torch.allclose(transform(ours)(x), transform(theirs)(x), rtol=1e-9, atol=1e-9)
    batch = image(5, 4, 3)
    loop = torch.stack([torch.func.grad(ours)(b) for b in batch])
    assert torch.allclose(torch.vmap(torch.func.grad(ours))(batch), loop, rtol=1e-10, atol=1e-12)


def test_functional_call_and_an_ensemble_under_vmap():
    layers = [ek.nn.BatchNorm2d(2).double() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)
    base = copy.deepcopy(layers[0])

    def call(p, b, x):
        return torch.func.functional_call(base, (p, b), (x,))

    y = torch.vmap(call, in_dims=(0, 0, None))(parameters, buffers, image())
    assert torch.allclose(y[1], layers[1](image()), rtol=1e-12, atol=1e-12)
    assert torch.allclose(buffers["running_var"][1], layers[1].running_var, rtol=1e-12)
    assert buffers["num_batches_tracked"].tolist() == [1, 1, 1]


def test_gradients_of_an_ensemble_in_training():
    layers = [ek.nn.BatchNorm2d(2, weight_init=i + 1.0).double() for i in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)
    base = copy.deepcopy(layers[0]).to("meta")

    def loss(p, b, x):
        return torch.func.functional_call(base, (p, b), (x,)).pow(3).sum()

    gradients = torch.vmap(torch.func.grad(loss), (0, 0, None))(parameters, buffers, image())
    for i, layer in enumerate(layers):
        layer(image()).pow(3).sum().backward()
        assert torch.allclose(gradients["weight"][i], layer.weight.grad, rtol=1e-10, atol=1e-10)
        assert torch.allclose(buffers["running_mean"][i], layer.running_mean, rtol=1e-12)


def test_func_grad_in_training_names_the_way_out_and_changes_nothing():
    layer = ek.nn.BatchNorm2d(2).double()
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(TransformError, match=r"(?s)captured.*functional\.batch_norm"):
        torch.func.grad(lambda x: layer(x).sum())(image())
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
    layer.eval()
    torch.func.grad(lambda x: layer(x).sum())(image())


def compiled_beside_eager(layer, *inputs, backend):
    twin = copy.deepcopy(layer)
    torch._dynamo.reset()
    run = torch.compile(layer, fullgraph=True, backend=backend, dynamic=False)
    results = []
    for module, call in ((layer, run), (twin, twin)):
        leaves = [
            t.detach().clone().requires_grad_() if t.is_floating_point() else t for t in inputs
        ]
        y = call(*leaves)
        y.square().sum().backward()
        gradients = [t.grad for t in leaves if t.is_floating_point()]
        results.append([y, *gradients, *(p.grad for p in module.parameters()), *module.buffers()])
    return results


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_has_no_graph_break_and_equal_results(training, backend):
    layer = ek.nn.BatchNormAct2d(2, activation="silu", momentum=None).train(training)
    x = image(4, 2, 5, 5, dtype=torch.float32)
    residual = image(4, 2, 5, 5, dtype=torch.float32, seed=1)
    compiled, eager = compiled_beside_eager(layer, x, residual, backend=backend)
    for a, b in zip(compiled, eager, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_compile_plain_layer_with_mask(backend):
    layer = ek.nn.BatchNorm1d(3)
    mask = torch.rand(6, 7, generator=torch.Generator().manual_seed(0)) > 0.4
    x = image(6, 3, 7, dtype=torch.float32)
    compiled, eager = compiled_beside_eager(layer, x, mask, backend=backend)
    for a, b in zip(compiled, eager, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=2e-6, atol=2e-6)


def test_inductor_trains_a_small_network():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), ek.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten()
    )
    torch._dynamo.reset()
    run = torch.compile(net, fullgraph=True, dynamic=False)
    run(image(2, 3, 6, 6, dtype=torch.float32)).sum().backward()
    assert int(net[1].num_batches_tracked) == 1
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("compiled", [False, True])
def test_checkpoint_moves_the_statistics_once(reentrant, compiled):
    layer = ek.nn.BatchNorm2d(2)
    torch._dynamo.reset()
    run = torch.compile(layer, backend="aot_eager") if compiled else layer
    x = image(dtype=torch.float32).requires_grad_()
    checkpoint(run, x, use_reentrant=reentrant).sum().backward()
    assert int(layer.num_batches_tracked) == 1
    mean = x.detach().mean((0, 2, 3))
    assert torch.allclose(layer.running_mean, 0.1 * mean, rtol=1e-5, atol=1e-7)
    assert x.grad is not None


def test_compile_of_a_checkpoint_moves_the_statistics_once():
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), ek.nn.BatchNorm2d(2), torch.nn.ReLU())
    torch._dynamo.reset()
    run = torch.compile(
        lambda x: checkpoint(net, x, use_reentrant=False), fullgraph=True, backend="aot_eager"
    )
    run(image(dtype=torch.float32).requires_grad_()).sum().backward()
    assert int(net[1].num_batches_tracked) == 1


def test_opcheck():
    ops = torch.ops.evenkeel
    x = image(4, 3, 5, 5, dtype=torch.float32)
    weight = torch.tensor([1.0, 2.0, 3.0])
    mask = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.3
    for layout in (x, x.to(memory_format=torch.channels_last), x[:, :, ::2, 1:]):
        keep = mask[:, : layout.shape[2], : layout.shape[3]]
        for rest in ((None, None, 1e-5, "identity", 0.0), (layout, keep, 1e-5, "relu", 0.0)):
            leaves = [t.detach().clone().requires_grad_() for t in (layout, weight, weight)]
            torch.library.opcheck(ops.forward, (*leaves, *rest))
            y, count, mean, mean_lo, var = ops.forward(layout, weight, weight, *rest)
            arguments = (y, layout, weight, weight, *rest[:2], mean, mean_lo, var, *rest[2:])
            torch.library.opcheck(ops.backward, arguments)
    state = (torch.zeros(3), torch.ones(3), torch.tensor(0), torch.tensor(0))
    rule = (0.1, "unbiased", "skip", False)
    torch.library.opcheck(ops.commit, (*state, count, mean, var, *rule))


def test_export_of_inference_holds_only_aten():
    net = torch.nn.Sequential(ek.nn.BatchNorm2d(2), ek.nn.BatchNormAct2d(2)).eval()
    x = image(dtype=torch.float32)
    program = torch.export.export(net, (x,))
    targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert targets == {"aten.batch_norm.default", "aten.relu.default"}
    assert torch.equal(program.module()(x), net(x))


def test_export_of_training_runs_and_commits():
    layer = ek.nn.BatchNorm2d(2)
    program = torch.export.export(copy.deepcopy(layer), (image(dtype=torch.float32),))
    assert "evenkeel.forward" in str(program.graph)
    y = program.module()(image(dtype=torch.float32))
    assert torch.allclose(y, layer(image(dtype=torch.float32)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_onnx_export_runs_in_onnx_runtime(dynamo):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 2, 1), ek.nn.BatchNorm2d(2), ek.nn.BatchNormAct2d(2)
    )
    net(image(8, 2, 3, 3, dtype=torch.float32) * 3 + 1)
    net.eval()
    x = image(dtype=torch.float32)
    file = io.BytesIO()
    torch.onnx.export(net, (x,), file, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert abs(got - net(x).detach().numpy()).max() < 1e-5


def test_fx_keeps_the_layers_as_leaves():
    net = torch.nn.Sequential(ek.nn.BatchNorm2d(2), ek.nn.BatchNormAct2d(2)).eval()
    graph = torch.fx.symbolic_trace(net)
    assert [n.op for n in graph.graph.nodes if n.op.startswith("call")] == ["call_module"] * 2
    x = image(dtype=torch.float32)
    assert torch.equal(graph(x), net(x))


def test_make_fx_and_fake_tensors_see_an_op():
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    layer = ek.nn.BatchNorm2d(2)
    graph = make_fx(layer)(image(dtype=torch.float32))
    assert "evenkeel.forward" in graph.code
    with FakeTensorMode():
        layer = ek.nn.BatchNorm2d(2)
        assert layer(torch.randn(3, 2, 4, 4)).shape == (3, 2, 4, 4)
        assert layer.eval().state_dict()["running_mean"].shape == (2,)


def test_jit_script_is_refused_and_changes_nothing():
    for layer in (ek.nn.BatchNorm2d(2), ek.nn.BatchNormAct2d(2), ek.nn.FrozenBatchNorm(2)):
        net = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), layer).eval()
        with pytest.raises(TransformError, match=r"(?s)torch\.jit\.script.*torch\.export"):
            torch.jit.script(net)
        assert net[1] is layer


def test_jit_trace_in_inference_without_a_warning():
    layer = ek.nn.BatchNorm2d(2).eval()
    x = image(dtype=torch.float32)
    traced = torch.jit.trace(layer, x)
    assert torch.equal(traced(x), layer(x))


def test_autocast_keeps_float32_parameters_and_statistics():
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), ek.nn.BatchNorm2d(2))
    with torch.autocast("cpu", torch.bfloat16):
        y = net(image(dtype=torch.float32))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert net[1].running_mean.dtype == net[1].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casting_a_model_keeps_float32_statistics(dtype):
    layer = ek.nn.BatchNorm2d(2, momentum=0.01)
    exact = torch.tensor([1.000123, 3.14159])
    layer.running_mean.copy_(exact)
    layer.to(dtype)
    assert torch.equal(layer.running_mean, exact)  # not rounded on the way
    assert layer.weight.dtype == dtype
    x = image(4, 2, 3, 3).to(dtype).requires_grad_()
    layer(x).sum().backward()
    assert layer.weight.grad.dtype == x.grad.dtype == dtype
    assert layer.eval()(x).dtype == dtype
    for name in ("running_mean", "running_var"):
        assert getattr(layer, name).dtype == torch.float32
    constructed = ek.nn.BatchNorm2d(2, dtype=dtype)
    assert constructed.running_var.dtype == torch.float32
    loaded = ek.nn.BatchNorm2d(2)
    narrow = {k: v.to(dtype) if v.is_floating_point() else v for k, v in layer.state_dict().items()}
    loaded.load_state_dict(narrow, assign=True)
    loaded(x)
    assert loaded.running_mean.dtype == torch.float32


def test_small_momentum_in_bfloat16_does_not_stall():
    layer = ek.nn.BatchNorm1d(1, momentum=0.01).to(torch.bfloat16)
    x = torch.tensor([[8.0], [12.0]], dtype=torch.bfloat16)
    for _ in range(800):
        layer(x)
    assert abs(layer.running_mean.item() - 10) < 0.01  # torch's stays at 6.69


def test_double_has_double_statistics():
    layer = ek.nn.BatchNorm2d(2).double()
    layer(image())
    assert layer.running_var.dtype == torch.float64


def test_meta_device_and_to_empty():
    layer = ek.nn.BatchNorm2d(2, device="meta")
    assert layer(image().float().to("meta")).device.type == "meta"
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert layer.nonfinite_batches == 0
    assert torch.equal(layer(image(dtype=torch.float32)), ek.nn.BatchNorm2d(2)(image().float()))


def test_parametrized_weight():
    class Positive(torch.nn.Module):
        def forward(self, weight):
            return weight.abs()

    layer = ek.nn.BatchNorm2d(2, weight_init=-2.0)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Positive())
    y = layer(image(dtype=torch.float32))
    y.sum().backward()
    assert torch.allclose(y.std(), torch.tensor(2.0), rtol=0.1)
    assert layer.parametrizations.weight.original.grad is not None


def test_inference_mode_and_no_grad_train_the_statistics():
    layer = ek.nn.BatchNorm2d(2)
    with torch.inference_mode():
        layer(image(dtype=torch.float32))
    with torch.no_grad():
        layer(image(dtype=torch.float32))
    layer(image(dtype=torch.float32)).sum().backward()
    assert int(layer.num_batches_tracked) == 3


def test_torchs_converter_and_fuser_do_not_lose_the_activation():
    fused = ek.nn.BatchNormAct2d(2)
    assert not isinstance(fused, torch.nn.modules.batchnorm._BatchNorm)
    net = torch.nn.Sequential(ek.nn.BatchNorm2d(2), fused)
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert converted[1] is fused


def test_swa_update_bn_works_on_our_layers():
    net = torch.nn.Sequential(ek.nn.BatchNorm2d(2))
    batches = [image(dtype=torch.float32, seed=s) for s in range(3)]
    torch.optim.swa_utils.update_bn(batches, net)
    mean = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    assert torch.allclose(net[0].running_mean, mean, rtol=1e-5, atol=1e-6)


IN_PLACE_CASES = [
    ek.nn.BatchNorm2d(2),
    lambda x: ek.nn.BatchNorm1d(2)(x[:, :, 0]),
    lambda x: ek.nn.BatchNorm1d(2)(x[:, :, 0, 0]),
    lambda x: ek.nn.BatchNorm3d(2)(x[:, :, None]),
    lambda x: ek.nn.BatchNorm2d(2)(x.to(memory_format=torch.channels_last)),
    lambda x: ek.nn.BatchNormAct2d(2, activation="silu")(x, residual=x),
    lambda x: functional.batch_norm(x, training=True).output,
]


@pytest.mark.parametrize("run", IN_PLACE_CASES)
def test_what_follows_may_write_into_the_output(run):
    def gradient(follow):
        x = image(4, 2, 3, 3, dtype=torch.float32).requires_grad_()
        follow(run(x)).square().sum().backward()
        return x.grad

    def add(y):
        y += 1.0
        return y

    def scale_a_part(y):
        y[:, 0].mul_(2.0)
        return y

    def pure_scale(y):
        factor = torch.ones(2)
        factor[0] = 2.0
        return y * factor.reshape(1, -1, *(1 for _ in y.shape[2:]))

    relu = torch.nn.functional.relu
    pairs = (
        (torch.nn.ReLU(inplace=True), relu),
        (add, lambda y: y + 1),
        (scale_a_part, pure_scale),
    )
    for in_place, pure in pairs:
        assert torch.allclose(gradient(in_place), gradient(pure), rtol=1e-5, atol=1e-6)


def test_a_crop_keeps_channels_last():
    x = image(2, 3, 6, 6, dtype=torch.float32).to(memory_format=torch.channels_last)
    crop = x[:, :, 1:-1, 1:-1]
    y = ek.nn.BatchNorm2d(3)(crop)
    assert y.stride() == torch.nn.BatchNorm2d(3)(crop).stride()


def test_writing_into_the_input_before_backward_is_noticed():
    x = image(dtype=torch.float32).requires_grad_().clone()
    y = ek.nn.BatchNorm2d(2)(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
