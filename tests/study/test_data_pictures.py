"""The pictures that stand for the classes in the report."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from evenkeel.study import load_dataset
from evenkeel.study._data._pictures import first_of_each
from evenkeel.study._report import _picture

if TYPE_CHECKING:
    from pathlib import Path

Y = np.array([1, 0, 1, 0])
GREY = np.random.default_rng(3).integers(1, 255, (4, 3, 2)).astype(np.uint8)
COLOUR = np.random.default_rng(4).integers(1, 255, (4, 5, 6, 3)).astype(np.uint8)


def test_bytes_are_shown_as_they_are_and_classes_in_order() -> None:
    for x in (GREY, COLOUR):
        np.testing.assert_array_equal(first_of_each(x, Y, 2, ink=False), x[[1, 0]])
    np.testing.assert_array_equal(first_of_each(COLOUR, Y, 2, ink=True), COLOUR[[1, 0]])


def test_ink_is_dark() -> None:
    x = np.array([[[0.0, 5.0], [10.0, 2.0]], [[0.0, 0.0], [0.0, 5.0]]])
    shown = first_of_each(x, np.array([0, 1]), 2, ink=True)
    # One scale for all pictures: 5 of 10 is the same grey in both, 127.5 rounded to even.
    assert shown[0].tolist() == [[255, 128], [0, 204]]
    assert shown[1].tolist() == [[255, 255], [255, 128]]


@pytest.mark.parametrize("scale", [1 / 255, 257.0])
def test_other_values_are_spread_from_black_to_white(scale: float) -> None:
    x = COLOUR.copy()
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0, 255
    np.testing.assert_array_equal(first_of_each(x * scale, Y, 2, ink=False), x[[1, 0]])


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (COLOUR.transpose(0, 3, 1, 2), (5, 6, 3)),
        (GREY[:, None], (3, 2)),
        (GREY[..., None], (3, 2)),
        (GREY == 7, (3, 2)),
    ],
)
def test_layouts(x: np.ndarray, shape: tuple[int, ...]) -> None:
    assert {picture.shape for picture in first_of_each(x, Y, 2, ink=False)} == {shape}


def test_channels_are_not_mixed_up() -> None:
    shown = first_of_each(COLOUR.transpose(0, 3, 1, 2), Y, 2, ink=False)
    np.testing.assert_array_equal(shown, COLOUR[[1, 0]])


@pytest.mark.parametrize("shape", [(4, 7), (4, 5, 6, 4), (4, 2, 3, 4, 5)])
def test_what_is_no_picture_is_not_shown(shape: tuple[int, ...]) -> None:
    assert first_of_each(np.zeros(shape), Y, 2, ink=True) == ()


def test_a_constant_picture_is_no_division_by_zero() -> None:
    shown = first_of_each(np.full((4, 3, 2), 7.0), Y, 2, ink=False)
    assert np.unique(shown).tolist() == [0]


def test_the_report_shows_what_it_is_given(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    assert digits.samples[0].dtype == np.uint8
    assert digits.samples[0][0, 0] == 255  # paper
    for pixels in (digits.samples[3], COLOUR[0]):
        made = _picture(pixels, "3", digits.info)
        with Image.open(io.BytesIO(made.png)) as image:
            np.testing.assert_array_equal(np.array(image), pixels)
        assert (made.height, made.width) == pixels.shape[:2]


def test_photographs_are_no_negatives(tmp_path: Path) -> None:
    for number, name in enumerate(("day", "night")):
        (tmp_path / name).mkdir()
        for i in range(4):
            pixels = np.full((4, 4), 250 - 240 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    day, night = load_dataset(f"folder:{tmp_path}").samples
    assert (day.max(), night.max()) == (250, 10)
