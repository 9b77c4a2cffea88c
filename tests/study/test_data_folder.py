"""Folders of images: what is read, and one clear message for each thing that is wrong."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evenkeel.errors import FileError, InputError
from evenkeel.study import Dataset, load_dataset
from evenkeel.study._data._formats import read

RNG = np.random.default_rng(11)


def picture(seed: int, shape: tuple[int, ...] = (6, 5)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes of eight grey pictures each."""
    root = tmp_path / "pets"
    for number, name in enumerate(("dog", "cat")):
        for i in range(8):
            write(root / name / f"{i}.png", picture(10 * number + i))
    return root


def load(root: Path) -> Dataset:
    return load_dataset(f"folder:{root}")


def said(root: Path, message: str) -> str:
    """The one message that the folder is refused with."""
    with pytest.raises(FileError, match=f"(?s){message}") as caught:
        load(root)
    text = str(caught.value)
    assert text.startswith(f"--data folder:{root}\n  got: ")
    assert text.count("\n") == 3
    return text


def test_classes_and_files_are_taken_in_order_of_their_names(pets: Path) -> None:
    raw = read(f"folder:{pets}")
    assert raw.y.tolist() == ["cat"] * 8 + ["dog"] * 8
    assert raw.x.dtype == np.uint8
    np.testing.assert_array_equal(raw.x, [picture(n) for n in [*range(10, 18), *range(8)]])
    data = load(pets)
    assert data.info.classes == ("cat", "dog")
    assert data.info.source == "folder:pets"
    assert (data.info.train, data.info.test, data.info.sample_shape) == (12, 4, (6, 5))
    assert data.train_x.shape == (12, 30)


def test_order_of_creation_does_not_matter(pets: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for path in sorted(pets.glob("*/*"), reverse=True):
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, other / path.parent.name)
    assert load(other).info.checksum == load(pets).info.checksum
    (other / "cat" / "0.png").rename(other / "cat" / "9.png")
    assert load(other).info.checksum != load(pets).info.checksum


def test_train_and_test_are_kept_apart(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for part in ("train", "test", "val"):
        shutil.copytree(pets, root / part)
    shutil.rmtree(root / "test" / "dog")
    (root / "val" / "cat" / "notes.txt").touch()  # this part is not read
    write(root / "test" / "cat" / "new.png", picture(99))
    raw = read(f"folder:{root}")
    assert (len(raw.x), len(raw.y)) == (16, 16)
    assert raw.test_y is not None
    assert raw.test_y.tolist() == ["cat"] * 9
    np.testing.assert_array_equal(raw.test_x[-1], picture(99))
    assert load(root).info.split == "as the source has it"


def test_train_may_be_a_class(pets: Path) -> None:
    (pets / "cat").rename(pets / "train")
    (pets / "dog").rename(pets / "test")
    assert load(pets).info.classes == ("test", "train")


def test_hidden_and_foreign_files_do_not_matter(pets: Path) -> None:
    before = load(pets).info
    for name in (".DS_Store", "Thumbs.db", "cat/.DS_Store", "cat/desktop.ini", "README.md"):
        (pets / name).write_bytes(b"no image")
    (pets / ".cache").mkdir()
    (pets / "__MACOSX").mkdir()
    assert load(pets).info == before


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tiff", "webp", "pgm", "jpg"])
def test_every_format_gives_the_same_pixels(pets: Path, suffix: str) -> None:
    for path in sorted(pets.glob("*/*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(f".{suffix}"), lossless=True, quality=100)
        if suffix != "png":
            path.unlink()
    x = read(f"folder:{pets}").x
    assert x.shape == (16, 6, 5)  # grey, also where the format stores three colours
    # JPEG's 64 coefficients are each rounded by at most 1/2, and weigh at most 1/4 in a pixel.
    lossy = 8 if suffix == "jpg" else 0
    assert np.abs(x[8].astype(int) - picture(0)).max() <= lossy


def test_one_coloured_picture_makes_all_coloured(pets: Path) -> None:
    colour = picture(50, (6, 5, 3))
    write(pets / "cat" / "9.png", colour)
    write(pets / "dog" / "9.png", np.repeat(picture(51)[..., None], 3, axis=2))
    x = read(f"folder:{pets}").x
    assert x.shape == (18, 6, 5, 3)
    np.testing.assert_array_equal(x[8], colour)
    np.testing.assert_array_equal(x[0], np.repeat(picture(10)[..., None], 3, axis=2))
    data = load(pets)
    assert data.train_x.shape[1] == 90
    assert [pixels.shape for pixels in data.samples] == [(6, 5, 3)] * 2


def test_pictures_whose_channels_are_equal_are_grey(pets: Path) -> None:
    write(pets / "cat" / "9.png", np.repeat(picture(51)[..., None], 3, axis=2))
    assert read(f"folder:{pets}").x.shape == (17, 6, 5)


def test_transparent_pixels_lie_on_white(pets: Path) -> None:
    pixels = np.zeros((6, 5, 4), np.uint8)
    pixels[0, 0] = (0, 0, 0, 255)
    pixels[0, 1] = (0, 0, 0, 51)  # a fifth of black on white is 255 - 51
    write(pets / "cat" / "9.png", pixels)
    x = read(f"folder:{pets}").x[8]
    assert (x[0, 0], x[0, 1], x[3, 3]) == (0, 204, 255)


def test_palettes_single_bits_and_cmyk_are_read(tmp_path: Path) -> None:
    base = Image.fromarray(picture(3, (6, 5, 3)))
    for name, mode in (("a", "P"), ("b", "1"), ("c", "CMYK"), ("d", "LA")):
        for i in range(3):
            path = tmp_path / "modes" / name / f"{i}.tiff"
            path.parent.mkdir(parents=True, exist_ok=True)
            base.convert(mode).save(path)
    x = read(f"folder:{tmp_path / 'modes'}").x
    assert x.shape == (12, 6, 5, 3)
    assert set(np.unique(x[3])) == {0, 255}
    np.testing.assert_array_equal(x[6], np.array(base))  # to CMYK and back loses nothing here


def test_sixteen_bits_are_kept_and_not_mixed_with_eight(pets: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    for i in range(8):
        pixels = RNG.integers(0, 2**16, (6, 5)).astype(np.uint16)
        write(deep / f"class{i % 2}" / f"{i}.png", pixels)
    x = read(f"folder:{deep}").x
    assert x.dtype == np.uint16
    assert x.max() > 255
    np.testing.assert_array_equal(x[-1], pixels)
    write(pets / "cat" / "9.png", pixels)
    text = said(pets, "number of bits per pixel")
    assert "cat/0.png with values of type uint8, cat/9.png of uint16" in text


def test_a_camera_held_upright_gives_upright_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    pixels = picture(7)
    for i in range(4):
        write(tmp_path / "turned" / f"class{i % 2}" / f"{i}.png", pixels, exif=exif)
    x = read(f"folder:{tmp_path / 'turned'}").x
    np.testing.assert_array_equal(x[0], np.rot90(pixels, -1))


def test_the_first_frame_of_an_animation_counts(pets: Path) -> None:
    frames = [Image.fromarray(picture(n)) for n in (60, 61)]
    frames[0].save(pets / "cat" / "9.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read(f"folder:{pets}").x[8], picture(60))


def test_sizes_that_differ(pets: Path) -> None:
    write(pets / "dog" / "5.png", picture(1, (5, 6)))
    text = said(pets, "every pixel is an input")
    assert "cat/0.png of 5 x 6 pixels, dog/5.png of 6 x 5\n" in text
    assert "mogrify -resize" in text


def test_a_size_of_the_test_part_that_differs(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for part in ("train", "test"):
        shutil.copytree(pets, root / part)
    write(root / "test" / "cat" / "0.png", picture(1, (9, 9)))
    assert "train/cat/0.png of 5 x 6 pixels, test/cat/0.png of 9 x 9" in said(root, "same size")


def test_pictures_that_are_too_large(pets: Path) -> None:
    write(pets / "cat" / "0.png", np.zeros((256, 257), np.uint8))
    assert "cat/0.png of 257 x 256 pixels" in said(pets, "shrink all images")


@pytest.mark.parametrize("side", [12_000, 40_000])  # Pillow warns of the first, refuses the other
def test_a_decompression_bomb_is_not_unpacked(pets: Path, side: int) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    (pets / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    said(pets, "cat/0.png .*shrink all images")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"Tom is a cat.", "cat/notes.txt, which is no image"),
        ("9.png", b"", "cat/9.png: it is empty"),
        ("9.png", b"<html>404</html>", "cat/9.png: it does not begin as an image does"),
        ("9.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n", "cat/9.eps: it does not"),
    ],
)
def test_a_file_that_is_no_image(pets: Path, name: str, content: bytes, message: str) -> None:
    (pets / "cat" / name).write_bytes(content)
    said(pets, message)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "webp"])
def test_a_truncated_image(tmp_path: Path, suffix: str) -> None:
    for name in ("cat", "dog"):
        for i in range(4):
            write(tmp_path / name / f"{i}.{suffix}", picture(i, (32, 32)))
    path = tmp_path / "dog" / f"2.{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    assert f"got: dog/2.{suffix}: " in said(tmp_path, "damaged, cut off or of another kind")


def test_any_damage_gives_a_message_or_a_picture(pets: Path) -> None:
    path = pets / "cat" / "0.png"
    whole = path.read_bytes()
    refused: list[str] = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            read(f"folder:{pets}")
        except FileError as error:
            refused.append(str(error))
    assert len(refused) > len(whole) // 2
    assert all("cat/0.png" in message for message in refused)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_not_waited_for(pets: Path) -> None:
    os.mkfifo(pets / "cat" / "9.png")
    said(pets, "cat/9.png, which is neither file nor folder")


def test_a_link_to_nowhere(pets: Path) -> None:
    (pets / "cat" / "9.png").symlink_to(pets / "gone.png")
    said(pets, "cat/9.png: No such file")


def test_a_file_that_may_not_be_read(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, **_: Any) -> None:  # the mode of a file would not stop root
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", fail)
    said(pets, "cat/0.png: Permission denied.*check its permissions")


def test_a_folder_that_cannot_be_listed(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", fail)
    said(pets, "Permission denied")


def test_folders_that_are_missing_files_or_empty(pets: Path, tmp_path: Path) -> None:
    said(tmp_path / "none", "no such folder")
    (tmp_path / "pets.zip").touch()
    said(tmp_path / "pets.zip", "got: a file.*unpack it")
    (tmp_path / "empty").mkdir()
    said(tmp_path / "empty", "got: no sub-folder")
    (pets / "bird").mkdir()
    (pets / "bird" / ".keep").touch()
    said(pets, "bird/ without any image")


def test_images_without_a_class(pets: Path) -> None:
    write(pets / "loose.jpg", picture(1))
    said(pets, "images outside the class folders: loose.jpg")
    said(pets / "cat", "no sub-folder in .*but images: 0.png.*one sub-folder per class")


def test_idx_files_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").touch()
    said(tmp_path, f"--data idx:{tmp_path}")


def test_one_class_only(pets: Path) -> None:
    shutil.rmtree(pets / "dog")
    with pytest.raises(InputError, match=r"one class only \(cat\)"):
        load(pets)


def test_a_class_that_only_the_test_part_has(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for part in ("train", "test"):
        shutil.copytree(pets, root / part)
    (root / "test" / "dog").rename(root / "test" / "fox")
    with pytest.raises(InputError, match=r"training never shows: \['fox'\]"):
        load(root)


def test_one_level_too_high(pets: Path, tmp_path: Path) -> None:
    said(tmp_path, f"pets/ with sub-folders in it: cat, dog.*--data folder:{pets}")
    (pets / "cat" / "more").mkdir()
    said(pets, "cat/ with sub-folders in it: more.*move the images up")


def test_a_split_that_is_not_whole(pets: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    for part in ("train", "val"):
        shutil.copytree(pets, root / part)
    said(root, f"train/ with class folders in it, and no test/.*--data folder:{root / 'train'}")
    (root / "val").rename(root / "test")
    load(root)
    shutil.copytree(pets / "cat", root / "bird")
    said(root, "beside other folders: bird")
