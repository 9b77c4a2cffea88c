"""Image files as one array: decoded by Pillow, all of one size, grey or red, green and blue."""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from evenkeel.errors import FileError, explain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

#: Most pixels of an image, 256 x 256: the study's networks have a weight for each, 256 times.
MAX_PIXELS: Final = 2**16
#: A format that Pillow gives to another program (Ghostscript), which runs what is in the file.
_PROGRAMS: Final = "EPS"


def has_image_name(path: Path) -> bool:
    """Whether the file is called like an image."""
    return path.suffix.lower() in Image.registered_extensions()


def read_images(root: Path, files: Sequence[Path]) -> npt.NDArray[Any]:
    """Decode all files, the first frame of each, upright as its camera noted.

    Transparent pixels are laid on white. A picture whose red, green and blue are equal
    everywhere counts as grey; one picture with colour makes the whole array coloured. Bytes
    stay bytes; pictures of 16 or 32 bits per pixel keep their values.

    Args:
        root: the folder that was asked for; messages name files relative to it.
        files: at least one.

    Returns:
        (N, H, W) or (N, H, W, 3), 0 = black.

    Raises:
        FileError: a file that is no image, damaged or too large; sizes or depths that differ.
    """
    images: list[npt.NDArray[Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a decoder's remarks; what it cannot read it raises
        for path in files:
            images.append(_read(root, path))
            _require_alike(root, (files[0], images[0]), (path, images[-1]))
    if all(image.ndim == 2 for image in images):
        return np.stack(images)
    coloured = np.empty((len(images), *images[0].shape[:2], 3), np.uint8)
    for place, image in zip(coloured, images, strict=True):
        place[:] = image if image.ndim == 3 else image[..., np.newaxis]
    return coloured


def _read(root: Path, path: Path) -> npt.NDArray[Any]:
    name = path.relative_to(root)
    if path.exists() and not path.is_file():
        got = f"{name}, which is neither file nor folder"
        raise _error(root, got, "a class folder holds nothing but images", "remove it")
    try:
        with Image.open(path, formats=_formats()) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS:
                return _pixels(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        width = height = 0
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over
        raise _unreadable(root, path, error) from error
    size = f"of {width} x {height} pixels" if width else "that would fill the memory"
    why = f"every pixel is an input of the network; at most {MAX_PIXELS} are taken (256 x 256)"
    do = "shrink all images to one small size first, e.g. 32 x 32"
    raise _error(root, f"{name} {size}", why, do)


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.OPEN if name != _PROGRAMS]


def _pixels(image: Image.Image) -> npt.NDArray[Any]:
    """The values of one picture: (H, W) or (H, W, 3)."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        deep = np.array(image)
        return deep.astype(deep.dtype.newbyteorder("="))
    if image.mode in {"LA", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    if image.mode in {"1", "L"}:
        return np.array(image.convert("L"))
    pixels = np.array(image.convert("RGB"))
    grey = (pixels == pixels[..., :1]).all()
    return pixels[..., 0].copy() if grey else pixels


_Named = tuple["Path", "npt.NDArray[Any]"]


def _require_alike(root: Path, first: _Named, other: _Named) -> None:
    """Refuse two pictures that cannot stand in one array."""
    names = [path.relative_to(root) for path, _ in (first, other)]
    (height, width), (high, wide) = (image.shape[:2] for _, image in (first, other))
    if (height, width) != (high, wide):
        got = f"{names[0]} of {width} x {height} pixels, {names[1]} of {wide} x {high}"
        why = "every pixel is an input of the network, so all images need the same size"
        do = (
            "bring copies of all of them to one small size, e.g. with ImageMagick: "
            "mogrify -resize '32x32!' */*"
        )
        raise _error(root, got, why, do)
    depths = [image.dtype for _, image in (first, other)]
    if depths[0] != depths[1]:
        got = f"{names[0]} with values of type {depths[0]}, {names[1]} of {depths[1]}"
        why = "white is another number in each, so their brightness cannot be compared"
        raise _error(root, got, why, "save all images with the same number of bits per pixel")


def _unreadable(root: Path, path: Path, error: Exception) -> FileError:
    """Tell apart: may not be read, is no image, or is a damaged one."""
    name = path.relative_to(root)
    unknown = isinstance(error, UnidentifiedImageError)
    if isinstance(error, OSError) and error.errno is not None:
        got, why = f"{name}: {error.strerror}", "the system does not let this process read it"
        return _error(root, got, why, "check its permissions and the disk")
    if unknown and not has_image_name(path):
        got, why = f"{name}, which is no image", "a class folder holds nothing but images"
        return _error(root, got, why, "move it elsewhere, or save it as PNG or JPEG")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if unknown:
        reason = "it does not begin as an image does" if path.stat().st_size else "it is empty"
    why = "the file is damaged, cut off or of another kind"
    return _error(root, f"{name}: {reason}", why, "copy or download it again, or remove it")


def _error(root: Path, got: str, why: str, do: str) -> FileError:
    return FileError(explain(asked=f"--data folder:{root}", got=got, why=why, do=do))
