"""keras.applications and their counterparts in torchvision and timm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Architecture:
    """One architecture of keras.applications and who defines the same in torch.

    Args:
        keras: name in ``keras.applications``.
        library: ``"timm"`` or ``"torchvision"``.
        torch: name of the model there.
        size: height and width of the images, small where the architecture allows.
        options: of the torch definition, beside the number of classes.
        adapt: changes the torch model before the port.
        note: what was chosen so that both define the same.
    """

    keras: str
    library: str
    torch: str
    size: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)
    adapt: Callable[[Any], None] | None = None
    note: str = ""


def _strides_on_first(model: Any) -> None:
    for name in ("layer2", "layer3", "layer4"):
        block = getattr(model, name)[0]
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def _resnet(depth: int) -> Architecture:
    note = "stride moved to the first 1x1 convolution of a block, as published (v1)"
    return Architecture(
        f"ResNet{depth}", "torchvision", f"resnet{depth}", adapt=_strides_on_first, note=note
    )


def _mobile(keras: str, torch: str) -> Architecture:
    # TensorFlow pads at the end where torch pads on both sides.
    return Architecture(keras, "timm", torch, options={"pad_type": "same"}, note="pad_type='same'")


ARCHITECTURES = (
    *(_resnet(depth) for depth in (50, 101, 152)),
    *(Architecture(f"DenseNet{d}", "torchvision", f"densenet{d}") for d in (121, 169, 201)),
    _mobile("MobileNet", "mobilenetv1_100"),
    _mobile("MobileNetV2", "mobilenetv2_100"),
    Architecture("MobileNetV3Small", "timm", "tf_mobilenetv3_small_100"),
    Architecture("MobileNetV3Large", "timm", "tf_mobilenetv3_large_100"),
    *(Architecture(f"EfficientNetB{n}", "timm", f"tf_efficientnet_b{n}") for n in range(8)),
    *(
        Architecture(f"EfficientNetV2{n}", "timm", f"tf_efficientnetv2_{n.lower()}")
        for n in ("B0", "B1", "B2", "B3", "S", "M", "L")
    ),
    Architecture("InceptionResNetV2", "timm", "inception_resnet_v2", 96),
    Architecture(
        "Xception",
        "timm",
        "legacy_xception",
        71,
        note="at a size where every pool gets a map of odd size; at 299 the two pad one pool "
        "differently",
    ),
)

#: Architectures with batch norm whose counterparts define another network.
WITHOUT_COUNTERPART = {
    "ResNet50V2": "keras puts the stride on the last block of a stage and biases on the residual "
    "stream; timm's resnetv2_50 puts the stride on the first block and has no biases",
    "ResNet101V2": "as ResNet50V2",
    "ResNet152V2": "as ResNet50V2",
    "InceptionV3": "keras leaves the padding out of its average pools, as TensorFlow does; those "
    "of timm and torchvision count it",
    "NASNetLarge": "keras pads with zeros before its pools, timm's nasnetalarge with minus "
    "infinity before maxima and not at all in averages",
    "NASNetMobile": "neither torchvision nor timm defines it",
}
