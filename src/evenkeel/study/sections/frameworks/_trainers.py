"""One network, trained by the means of three frameworks: plain SGD on the cross entropy."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from evenkeel.study._network import linear_layers, norm_layers
from evenkeel.study.sections.frameworks._layers import norm_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evenkeel.study._training import Training
    from evenkeel.study.sections.frameworks._plan import Arm, FrameworkConfig


class Trainer(Protocol):
    """A network in some framework; arrays are NumPy's."""

    def update(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        """Make one step of SGD and return the loss before it."""
        ...

    def logits(self, x: NDArray[Any]) -> NDArray[Any]:
        """Outputs in inference mode."""
        ...


def trainer(config: FrameworkConfig, training: Training) -> Trainer:
    """The network of a run, with the initial weights that ``training`` drew."""
    # One thread: sums split over threads would round differently from machine to machine.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("KERAS_BACKEND", "jax")
    kind: type[Any] = {"torch": _Torch, "keras": _Keras, "flax": _Flax}[config.framework]
    return kind(config, training)


def _kernels(training: Training) -> list[NDArray[Any]]:
    """Weights of the linear layers as (in, out), from the input on."""
    layers = linear_layers(training.network).values()
    return [layer.weight.detach().cpu().numpy().T.copy() for layer in layers]


class _Torch:
    """PyTorch, in the training loop of the other sections."""

    def __init__(self, config: FrameworkConfig, training: Training) -> None:
        for name, layer in norm_layers(training.network).items():
            setattr(training.network, name, norm_layer(config.arm, layer.num_features))
        self.network = training.network.to(training.train[0].device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=config.rate)
        self.device = training.train[0].device

    def update(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        tensors = (torch.from_numpy(array).to(self.device) for array in (x, y))
        inputs, labels = tensors
        loss = nn.functional.cross_entropy(self.network.train()(inputs), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def logits(self, x: NDArray[Any]) -> NDArray[Any]:
        return self.network.eval()(torch.from_numpy(x).to(self.device)).cpu().numpy()


class _Keras:
    """Keras, through ``compile`` and ``train_on_batch``."""

    def __init__(self, config: FrameworkConfig, training: Training) -> None:
        kernels = _kernels(training)
        shapes = tuple(kernel.shape for kernel in kernels)
        self.network, start = _keras_network(config.arm, config.rate, shapes)
        # A kernel is the only matrix among the weights.
        rest = iter(kernels)
        self.network.set_weights([next(rest) if w.ndim == 2 else w for w in start])

    def update(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        # The loss that Keras returns is a mean over all steps since the last reset.
        self.network.reset_metrics()
        return float(self.network.train_on_batch(x, y))

    def logits(self, x: NDArray[Any]) -> NDArray[Any]:
        return self.network.predict_on_batch(x)


class _Flax:
    """Flax NNX with optax, compiled by ``nnx.jit``."""

    def __init__(self, config: FrameworkConfig, training: Training) -> None:
        from flax import nnx

        kernels, rngs = _kernels(training), nnx.Rngs(0)
        layers: list[Any] = []
        for number, kernel in enumerate(kernels, start=1):
            last = number == len(kernels)
            zeros = nnx.initializers.zeros  # as in Keras
            linear = nnx.Linear(*kernel.shape, use_bias=last, kernel_init=zeros, rngs=rngs)
            linear.kernel[...] = kernel
            layers.append(linear)
            if not last:
                layers += [norm_layer(config.arm, kernel.shape[1]), nnx.relu]
        self.network: Any = nnx.Sequential(*layers)
        self.optimizer: Any = nnx.Optimizer(self.network, _sgd(config.rate), wrt=nnx.Param)

    def update(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        self.network.train()
        return float(_flax_functions()[0](self.network, self.optimizer, x, y))

    def logits(self, x: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        self.network.eval()
        return np.asarray(_flax_functions()[1](self.network, x))


@functools.cache
def _keras_network(
    arm: Arm, rate: float, shapes: tuple[tuple[int, int], ...]
) -> tuple[Any, list[NDArray[Any]]]:
    """The compiled network of an arm and its weights at the start, shared as above.

    Keras traces and compiles anew for every model, which takes longer than a short training.
    """
    import keras

    # Random initial weights, which would be overwritten, take JAX seconds to compile.
    dense = functools.partial(keras.layers.Dense, kernel_initializer="zeros")
    layers: list[Any] = [keras.Input((shapes[0][0],))]
    for _, width in shapes[:-1]:
        layers += [dense(width, use_bias=False), norm_layer(arm, width), keras.layers.ReLU()]
    layers.append(dense(shapes[-1][1]))
    network: Any = keras.Sequential(layers)
    network.compile(
        optimizer=keras.optimizers.SGD(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return network, network.get_weights()


@functools.cache
def _sgd(rate: float) -> Any:  # noqa: ANN401 - an optax transformation
    """The same object for all runs of a process, so that equal arms are compiled once."""
    import optax

    return optax.sgd(rate)


@functools.cache
def _flax_functions() -> tuple[Any, Any]:
    """The compiled step and the compiled outputs, shared by all runs of a process."""
    import optax
    from flax import nnx

    def loss(network: Any, x: Any, y: Any) -> Any:  # noqa: ANN401 - JAX arrays
        return optax.softmax_cross_entropy_with_integer_labels(network(x), y).mean()

    @nnx.jit
    def update(network: Any, optimizer: Any, x: Any, y: Any) -> Any:  # noqa: ANN401 - as above
        value, gradients = nnx.value_and_grad(loss)(network, x, y)
        optimizer.update(network, gradients)
        return value

    @nnx.jit
    def logits(network: Any, x: Any) -> Any:  # noqa: ANN401 - as above
        return network(x)

    return update, logits
