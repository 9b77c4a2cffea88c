"""PyTorch's batch normalization as Spec and State: live modules, and the names of a state dict."""

from evenkeel.dialects.torch._arrays import StoredLayer, find_layers, read_arrays, read_layer
from evenkeel.dialects.torch._modules import is_batch_norm, read_module, read_spec, read_state
from evenkeel.dialects.torch._tensors import UnsaidError

__all__ = [
    "StoredLayer",
    "UnsaidError",
    "find_layers",
    "is_batch_norm",
    "read_arrays",
    "read_layer",
    "read_module",
    "read_spec",
    "read_state",
]
