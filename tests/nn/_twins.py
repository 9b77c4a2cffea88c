"""Fused layers in place beside their twins that are not."""

import copy

import torch

import evenkeel as ek

ACTIVATIONS = ["identity", ("leaky_relu", 0.01), ("leaky_relu", 1.0), "elu", ("elu", 0.3)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
PROVIDERS = ["cpu", "aten", "reference"]


def channels_last(x):
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": channels_last,
    "width before height": lambda x: x.mT.contiguous().mT,
}


def fused(channels=4, activation="leaky_relu", dtype=torch.float32, **extras):
    """A layer in place and its twin that is not."""
    layer = ek.nn.BatchNormAct2d(channels, activation=activation, inplace=True, **extras)
    if dtype == torch.float64:
        layer.double()
    twin = copy.deepcopy(layer)
    twin.inplace = False
    return layer, twin


def image(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (6, 4, 5, 3), generator=generator, dtype=torch.float64).to(dtype)


def set_affine(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight))
        layer.bias.copy_(torch.as_tensor(bias))
