"""PyTorch: batch normalization as Spec and State, live networks, and names of state dicts."""

from evenkeel.dialects.torch._arrays import StoredLayer, find_layers, read_arrays, read_layer
from evenkeel.dialects.torch._build import build_module
from evenkeel.dialects.torch._files import read_network, write_network
from evenkeel.dialects.torch._modules import is_batch_norm, read_module, read_spec, read_state
from evenkeel.dialects.torch._network import TorchNetwork, open_network
from evenkeel.dialects.torch._tensors import UnsaidError
from evenkeel.dialects.torch._unsayable import unsayable

__all__ = [
    "StoredLayer",
    "TorchNetwork",
    "UnsaidError",
    "build_module",
    "find_layers",
    "is_batch_norm",
    "open_network",
    "read_arrays",
    "read_layer",
    "read_module",
    "read_network",
    "read_spec",
    "read_state",
    "unsayable",
    "write_network",
]
