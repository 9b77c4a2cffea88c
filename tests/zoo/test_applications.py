"""Every architecture of keras.applications goes into its torch definition without a map."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from evenkeel.tools._port import port

from ._architectures import ARCHITECTURES, WITHOUT_COUNTERPART, Architecture
from ._models import build_keras, build_torch, example

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("timm") is None, reason="timm and torchvision define the targets"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.mark.parametrize("entry", ARCHITECTURES, ids=lambda entry: entry.keras)
def test_an_architecture_is_ported(entry: Architecture) -> None:
    source, target = build_keras(entry), build_torch(entry)
    images = example(entry, source)
    done = port(source, target, images, settings="source", purpose="inference")
    assert done.matching.agrees
    assert done.proof.exact == "source"
    assert done.proof.target_error <= 4 * done.proof.source_error
    # Random statistics must not have silenced the network.
    assert done.proof.size > 1e3 * done.proof.source_error > 0


def test_every_architecture_with_batch_norm_is_listed() -> None:
    import keras

    without_norm = {"VGG16", "VGG19"}
    known = {entry.keras for entry in ARCHITECTURES} | set(WITHOUT_COUNTERPART) | without_norm
    found = {name for name in dir(keras.applications) if name[0].isupper()}
    assert {name for name in found if not name.startswith("ConvNeXt")} == known
