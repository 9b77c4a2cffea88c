"""From the findings of all sections to the report: what surrounds the sections."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from evenkeel.report import Chapter, Column, Note, Picture, Report, Table
from evenkeel.study._network import INITIALISATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from evenkeel.report import Findings
    from evenkeel.study._data import DataInfo, Dataset
    from evenkeel.study.sections import Section

LIMITATIONS: Final = (
    (
        "One small network and one data set: the answer may differ for deep or convolutional "
        "networks, for other data, and for longer training."
    ),
    (
        "The best rate is chosen on the same test set that the accuracy is reported on, so both "
        "numbers are a little too good; the choice is made alike for both networks."
    ),
    (
        "Plain optimizers at a constant rate: warm-up, decay, momentum and gradient clipping, "
        "which also widen the range of usable rates, are not used."
    ),
    (
        "Accuracy is measured at recorded steps only, so steps to a target are rounded up to the "
        "next of them."
    ),
    "The spread is over random seeds (initial weights and order of the batches), not over data.",
)


def build_report(
    findings: Sequence[tuple[Section, Findings]], data: Dataset, results: Mapping[str, Any]
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
        chapters=tuple(
            Chapter(
                name=section.name,
                title=section.title,
                claim=section.claim,
                method=section.method,
                findings=found,
            )
            for section, found in findings
        ),
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
            f"{part}, with the network in inference mode."
        ),
        (
            "Each run draws its initial weights and the order of its batches from one generator, "
            "seeded from the run's settings and its seed number. Each run uses one thread, so the "
            "same seed gives the same numbers, whatever the number of cores."
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


def _picture(pixels: npt.NDArray[np.float64], label: str, info: DataInfo) -> Picture:
    """Return one sample as a PNG, dark ink on white as on paper."""
    low, high = pixels.min(), pixels.max()
    grey = 255 * (1 - (pixels - low) / (high - low or 1.0))
    file = io.BytesIO()
    Image.fromarray(grey.round().astype(np.uint8)).save(file, format="PNG")
    return Picture(
        png=file.getvalue(),
        width=pixels.shape[1],
        height=pixels.shape[0],
        label=label,
        alt=f"sample of class {label} from {info.name}",
    )
