"""From the findings of all sections to the report: what surrounds the sections."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from evenkeel.report import Column, Note, Picture, Report, Table
from evenkeel.study._network import INITIALISATION

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from evenkeel.report import Chapter
    from evenkeel.study._data import DataInfo, Dataset

LIMITATIONS: Final = (
    (
        "Small fully connected networks, short training and one data set: the answers may differ "
        "for convolutional or residual networks, for other data, and for longer training."
    ),
    (
        "Where a best rate is chosen, it is chosen on the same test set that the accuracy is "
        "reported on, so those numbers are a little too good; the choice is made alike on all "
        "sides."
    ),
    (
        "Plain optimizers at a constant rate: warm-up, decay, momentum and gradient clipping, "
        "which also widen the range of usable rates, are not used."
    ),
    (
        "Accuracy is measured at recorded steps only; where steps to a target are counted, they "
        "are rounded up to the next of them."
    ),
    (
        "The intervals cover the choice of seed (initial weights, drawn samples, order of the "
        "batches), not the choice of data. Many intervals are shown: one in twenty misses its mean."
    ),
)


def build_report(
    chapters: tuple[Chapter, ...], data: Dataset, results: Mapping[str, Any]
) -> Report:
    """Assemble chapters, data samples, settings, method and limitations."""
    info = data.info
    return Report(
        title="What did batch norm do here?",
        subtitle=f"evenkeel study on {info.name}",
        pictures=tuple(
            _picture(pixels, info.classes[number], info)
            for number, pixels in enumerate(data.samples)
        ),
        pictures_caption=(
            f"One training image of each class. {info.train} samples for training, {info.test} "
            f"for testing, {len(info.classes)} classes."
        ),
        chapters=chapters,
        tables=(_settings(results, info),),
        notes=(
            Note(name="measured", title="How it was measured", paragraphs=_measured(info, results)),
            Note(name="limitations", title="Limitations", paragraphs=LIMITATIONS),
        ),
        footer=(
            f"evenkeel {results['versions']['evenkeel']}, torch {results['versions']['torch']}. "
            "Every number here is in results.json beside this file."
        ),
    )


def _settings(results: Mapping[str, Any], info: DataInfo) -> Table:
    settings, versions, machine = (results[key] for key in ("settings", "versions", "machine"))
    rows = (
        ("data", f"{info.name}, {' x '.join(map(str, info.sample_shape))} values per sample"),
        ("checksum of the data", info.checksum),
        ("split", f"{info.split}: {info.train} training, {info.test} test samples"),
        ("scaling", info.scaling),
        ("initialisation", INITIALISATION),
        ("sections", ", ".join(settings["sections"])),
        ("seeds", ", ".join(map(str, settings["seeds"]))),
        ("size", "quick" if settings["quick"] else "full"),
        ("runs", str(sum(len(s["runs"]) for s in results["sections"].values()))),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions.items())),
        ("machine", ", ".join(f"{name} {what}" for name, what in machine.items())),
        ("started", results["timing"]["started"]),
        ("duration", f"{results['timing']['seconds']:.0f} s"),
    )
    return Table(
        name="settings",
        title="Settings",
        columns=(Column(title="Setting"), Column(title="Value")),
        rows=rows,
    )


def _measured(info: DataInfo, results: Mapping[str, Any]) -> tuple[str, ...]:
    part = "" if info.test == info.test_available else f" (of {info.test_available}, drawn once)"
    paragraphs = (
        (
            f"Every accuracy is the share of right answers on the same {info.test} test samples"
            f"{part}; with the network in inference mode, unless the section says otherwise."
        ),
        (
            "Each run draws its initial weights and the order of its batches from one generator, "
            "seeded from the section's name and the seed number, so that the runs of one seed "
            "share them as far as they can, and differences are taken seed by seed. Each run uses "
            "one thread, so the same seed gives the same numbers, whatever the number of cores."
        ),
        (
            "The rule of each section was written before the runs of the study, and the verdict is "
            "computed from the measures listed in the section, by nothing else."
        ),
    )
    if results["model"] is None:
        return paragraphs
    accuracy = results["model"]["final_accuracy"]
    return (
        *paragraphs,
        (
            "model.safetensors holds the network with batch norm that ended with the highest test "
            f"accuracy ({accuracy:.1%}), as a state dict."
        ),
    )


def _picture(pixels: npt.NDArray[np.uint8], label: str, info: DataInfo) -> Picture:
    """Return one sample as a PNG; (H, W) is grey, (H, W, 3) red, green and blue."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return Picture(
        png=file.getvalue(),
        width=pixels.shape[1],
        height=pixels.shape[0],
        label=label,
        alt=f"sample of class {label} from {info.name}",
    )
