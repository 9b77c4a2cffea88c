"""ONNX: the operator BatchNormalization, whole graphs, and their files."""

from evenkeel.dialects.onnx._batch_norm import build_module, is_batch_norm, read_module
from evenkeel.dialects.onnx._files import read_network, write_network
from evenkeel.dialects.onnx._network import OnnxNetwork, open_network
from evenkeel.dialects.onnx._unsayable import unsayable

__all__ = [
    "OnnxNetwork",
    "build_module",
    "is_batch_norm",
    "open_network",
    "read_module",
    "read_network",
    "unsayable",
    "write_network",
]
