"""Published architectures are adopted and fused, and compute what they computed before."""

from __future__ import annotations

import copy
import pickle
from importlib.util import find_spec
from typing import Any

import pytest
import torch

import evenkeel as ek

from ._models import CLASSES, import_torchvision

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("timm") is None, reason="timm and torchvision define the models"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

#: Name, size of the images, batch norms, how many of them are fused. Those that are left end a
#: block whose caller goes on, or stand before what no kernel knows (stochastic depth, a second
#: batch norm that takes the same addition).
NETWORKS = [
    ("torchvision.resnet18", 64, 20, 17),
    ("torchvision.resnet50", 64, 53, 49),
    ("torchvision.mobilenet_v2", 64, 52, 45),
    ("torchvision.mobilenet_v3_small", 64, 34, 29),
    ("torchvision.efficientnet_b0", 64, 49, 33),
    ("torchvision.densenet121", 64, 121, 121),
    ("torchvision.regnet_y_400mf", 64, 53, 49),
    ("torchvision.inception_v3", 96, 94, 94),
    ("torchvision.googlenet", 64, 57, 57),
    ("timm.resnet18", 64, 20, 17),
    ("timm.mobilenetv2_100", 64, 52, 45),
    ("timm.mobilenetv3_small_100", 64, 34, 29),
    ("timm.efficientnet_b0", 64, 49, 42),
    ("timm.densenet121", 64, 121, 121),
    ("timm.regnety_002", 64, 44, 27),
    ("timm.inception_v3", 96, 94, 94),
    ("timm.convmixer_768_32", 28, 65, 32),
]


def build(name: str) -> Any:
    torch.manual_seed(0)
    library, _, model = name.partition(".")
    torchvision = import_torchvision()
    if library == "timm":
        import timm

        return timm.create_model(model, num_classes=CLASSES)
    plain = {"aux_logits": False} if model in ("inception_v3", "googlenet") else {}
    return getattr(torchvision.models, model)(num_classes=CLASSES, **plain)


@pytest.mark.parametrize(("name", "size", "norms", "fused"), NETWORKS, ids=str)
def test_a_network_is_adopted(name: str, size: int, norms: int, fused: int) -> None:
    model = build(name)
    kinds = [type(module) for module in model.modules()]
    report = ek.adopt(model, torch.randn(4, 3, size, size), fuse=True)
    assert report.proof.holds
    assert [row.adopted for row in report.layers] == [True] * norms
    assert sum(bool(row.fused) for row in report.layers) == fused
    ek.release(model)
    assert [type(module) for module in model.modules()] == kinds


def test_layers_of_timm_keep_their_activation_inside() -> None:
    import_torchvision()  # which timm imports
    from timm.layers import BatchNormAct2d, convert_sync_batchnorm

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        BatchNormAct2d(3, act_layer=torch.nn.SiLU),
        BatchNormAct2d(3, act_layer=torch.nn.Softplus, act_kwargs={}, inplace=False),
        BatchNormAct2d(3, apply_act=False),
        torch.nn.ReLU(),
    )
    original = copy.deepcopy(net)
    x = torch.randn(4, 3, 5, 5)
    report = ek.adopt(net, x, fuse=True)
    assert [row.fused for row in report.layers] == [("silu",), (), ("relu",)]
    assert "Softplus" in report.layers[1].left
    assert all(isinstance(net[i], BatchNormAct2d) for i in range(3))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(twin(x), copy.deepcopy(original)(x))
    synchronized = convert_sync_batchnorm(copy.deepcopy(net)).eval()
    torch.testing.assert_close(synchronized(x), original.eval()(x))
    ek.release(net)
    assert type(net[0]) is BatchNormAct2d
    assert vars(net[0]).keys() == vars(original[0]).keys()


def test_features_are_extracted_from_a_fused_network() -> None:
    model = build("torchvision.resnet18").eval()
    import_torchvision()
    from torchvision.models.feature_extraction import create_feature_extractor

    nodes = ["layer1.0.bn1", "layer1.0.relu", "layer2"]
    x = torch.randn(2, 3, 64, 64)
    wanted = create_feature_extractor(model, nodes)(x)
    ek.adopt(model, fuse=True)
    found = create_feature_extractor(model, nodes)(x)
    for name in nodes:
        torch.testing.assert_close(found[name], wanted[name])
