"""Damage to real files: what disks, networks and hostile authors do to them."""

from __future__ import annotations

import io
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDENS = Path(__file__).parent / "goldens"
#: Lengths and offsets that break parsers: signs, sizes of words, one beyond.
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


@st.composite
def flipped(draw, whole: bytes) -> bytes:
    """One to four bits flipped."""
    data = bytearray(whole)
    for at in draw(st.lists(places(whole), min_size=1, max_size=4)):
        data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


@st.composite
def truncated(draw, whole: bytes) -> bytes:
    """Cut off at some byte."""
    return whole[: draw(places(whole))]


@st.composite
def inserted(draw, whole: bytes) -> bytes:
    """A few bytes too many, anywhere."""
    at = draw(st.integers(0, len(whole)))
    return whole[:at] + draw(st.binary(min_size=1, max_size=16)) + whole[at:]


@st.composite
def shortened(draw, whole: bytes) -> bytes:
    """A piece missing in the middle."""
    at = draw(places(whole))
    return whole[:at] + whole[at + draw(st.integers(1, 64)) :]


@st.composite
def swapped(draw, whole: bytes) -> bytes:
    """Two blocks exchanged."""
    size = draw(st.sampled_from([1, 4, 8, 64, 512]))
    if len(whole) < 2 * size:
        size = 1
    first = draw(st.integers(0, len(whole) - 2 * size))
    second = draw(st.integers(first + size, len(whole) - size))
    a, b = whole[first : first + size], whole[second : second + size]
    return whole[:first] + b + whole[first + size : second] + a + whole[second + size :]


@st.composite
def overwritten(draw, whole: bytes) -> bytes:
    """A block repeated over another, as when two writers share a file; pointers then meet."""
    size = draw(st.sampled_from([1, 4, 8, 64, 512]))
    source, target = draw(places(whole)), draw(places(whole))
    piece = whole[source : source + min(size, len(whole) - target)]
    return whole[:target] + piece + whole[target + len(piece) :]


@st.composite
def renumbered(draw, whole: bytes) -> bytes:
    """A length, offset or count replaced by one that lies."""
    width = draw(st.sampled_from([1, 2, 4, 8]))
    number = draw(st.sampled_from([*NUMBERS, len(whole), len(whole) + 1]))
    order = draw(st.sampled_from(["little", "big"]))
    at = draw(places(whole))
    field = (number % 2 ** (8 * width)).to_bytes(width, order)[: len(whole) - at]
    return whole[:at] + field + whole[at + len(field) :]


@st.composite
def misspelled(draw, whole: bytes) -> bytes:
    """A printable character replaced by another, which is what hurts text."""
    printable = [at for at, byte in enumerate(whole) if 32 <= byte < 127]
    at = draw(st.sampled_from(printable))
    return whole[:at] + bytes([draw(st.integers(32, 126))]) + whole[at + 1 :]


def places(whole: bytes) -> st.SearchStrategy[int]:
    """Any position in the file."""
    return st.integers(0, len(whole) - 1)


KINDS = (
    flipped,
    truncated,
    inserted,
    shortened,
    swapped,
    overwritten,
    renumbered,
    misspelled,
)


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """The file after one accident of any kind."""
    return st.one_of([kind(whole) for kind in KINDS]).filter(lambda data: data != whole)


@dataclass(frozen=True)
class Case:
    """A golden and the part of it that is damaged.

    Args:
        golden: its name in the folder of goldens.
        inner: for a folder the file, for an archive the entry that is damaged; the entry then
            gets a right checksum, as a hostile author would give it.
        silent: the largest share of accidents that change a name, a shape, an element type or
            the configuration and are not noticed; 0 where checksums cover them.
    """

    golden: str
    inner: str = ""
    silent: float = 0.0

    def __str__(self) -> str:
        return f"{self.golden}:{self.inner}" if self.inner else self.golden

    @property
    def path(self) -> Path:
        return GOLDENS / self.golden

    def content(self) -> bytes:
        """The bytes that are damaged."""
        if not self.inner:
            return self.path.read_bytes()
        if self.path.is_dir():
            return (self.path / self.inner).read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(self.inner)

    def place(self, folder: Path) -> Callable[[bytes], Path]:
        """A function that puts damaged bytes where they belong, and names the checkpoint."""
        target = folder / self.golden
        if self.path.is_dir():
            shutil.copytree(self.path, target)
            return lambda data: self._put(target / self.inner, data, target)
        if self.inner:
            return lambda data: self._put(target, self._sealed(data), target)
        return lambda data: self._put(target, data, target)

    @staticmethod
    def _put(file: Path, data: bytes, checkpoint: Path) -> Path:
        file.write_bytes(data)
        return checkpoint

    def _sealed(self, data: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(self.path) as source, zipfile.ZipFile(buffer, "w") as target:
            for info in source.infolist():
                content = data if info.filename == self.inner else source.read(info)
                target.writestr(info.filename, content, info.compress_type)
        return buffer.getvalue()
