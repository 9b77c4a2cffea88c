"""Puts the weights of a file into a live network of any framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel import checkpoints
from evenkeel.tools._convert._formats import framework_of
from evenkeel.tools._convert._layers import adapt, holds_no_weight
from evenkeel.tools._convert._matching import Side, match_layers
from evenkeel.tools._convert._read import has_model_order, read_source

if TYPE_CHECKING:
    import os

    from evenkeel.dialects._network import Network


def load_weights(network: Network, path: str | os.PathLike[str]) -> None:
    """Write every array of a file into the network; layers are matched as in ``convert``.

    Raises:
        FileError: the file cannot be read.
        InputError: file and network do not have the same layers; nothing was written.
    """
    checkpoint = checkpoints.read(path)
    like = [la for la in network.layers() if la.arrays and not holds_no_weight(la)]
    stored = [layer for layer in read_source(checkpoint, {}, like).layers if layer.arrays]
    source = Side(str(path), stored, has_model_order(checkpoint))
    framework = framework_of(checkpoint)
    values = {
        pair.target.name: {
            role: array.read()
            for role, array in adapt(pair, framework, "training")[0].arrays.items()
        }
        for pair in match_layers(source, Side("the model", like, ordered=True), None)
    }
    network.write(values)
