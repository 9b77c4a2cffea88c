"""Recurrent layers of live torch models, in the layout of Keras."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evenkeel.dialects._open import open_network

RNG = np.random.default_rng(0)


def half_square(output):
    """A loss whose gradient is the output itself."""
    return float((output.astype(np.float64) ** 2).sum() / 2), output


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_every_layer_of_a_recurrent_module_has_a_call(kind, batch_first):
    torch.manual_seed(0)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first)

        def forward(self, x):
            return self.rnn(x if batch_first else x.transpose(0, 1))[0].sum(1 if batch_first else 0)

    network = open_network(Last())
    x = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    calls = {call.layer: call for call in network.trace(x).calls}
    assert list(calls) == [
        f"rnn/{depth}/{way}" for depth in ("l0", "l1") for way in ("forward", "backward")
    ]
    np.testing.assert_array_equal(calls["rnn/l0/forward"].input, x)
    joined = np.concatenate([calls[f"rnn/l0/{w}"].output for w in ("forward", "backward")], -1)
    np.testing.assert_array_equal(calls["rnn/l1/backward"].input, joined)


def test_lstm_arrays_are_kerass():
    torch.manual_seed(0)
    module = nn.LSTM(2, 3, batch_first=True)
    network = open_network(nn.Sequential(module))
    (layer,) = network.layers()
    kernel, recurrent, bias = (layer.arrays[r].read() for r in ("kernel", "recurrent", "bias"))
    x = RNG.normal(size=(1, 2, 2)).astype(np.float32)
    h, c = np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32)
    for t in range(2):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, -1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
    with torch.no_grad():
        expected = module(torch.tensor(x))[0][:, -1].numpy()
    np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-6)


def test_gru_arrays_are_kerass():
    torch.manual_seed(0)
    module = nn.GRU(2, 3, batch_first=True)
    (layer,) = open_network(nn.Sequential(module)).layers()
    kernel, recurrent, bias = (layer.arrays[r].read() for r in ("kernel", "recurrent", "bias"))
    x, h = RNG.normal(size=(1, 2, 2)).astype(np.float32), np.zeros((1, 3), np.float32)
    for t in range(2):
        of_x, of_h = x[:, t] @ kernel + bias[0], h @ recurrent + bias[1]
        xz, xr, xn = np.split(of_x, 3, -1)
        hz, hr, hn = np.split(of_h, 3, -1)
        z, r = 1 / (1 + np.exp(-(xz + hz))), 1 / (1 + np.exp(-(xr + hr)))
        h = z * h + (1 - z) * np.tanh(xn + r * hn)
    with torch.no_grad():
        expected = module(torch.tensor(x))[0][:, -1].numpy()
    np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_summed_bias_is_one_of_both():
    module = nn.LSTM(2, 3, batch_first=True)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = module

        def forward(self, x):
            return self.rnn(x)[0][:, -1]

    step = open_network(Last()).step(np.ones((2, 4, 2), np.float32), half_square)
    (module(torch.ones(2, 4, 2))[0][:, -1].square().sum() / 2).backward()
    np.testing.assert_allclose(
        step.gradients["rnn"]["bias"], module.bias_ih_l0.grad.numpy(), rtol=1e-5, atol=1e-6
    )
