"""The table of contents of a zip archive, with every promise in it checked before it is used."""

from __future__ import annotations

import struct
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from evenkeel.checkpoints._checkpoint import refusal
from evenkeel.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

#: What zipfile raises of a damaged archive; struct.error and OverflowError come from bad numbers.
DAMAGED: Final = (
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error),
    *(OverflowError, MemoryError),
)
#: Content that an archive may unpack to: this many bytes, or this many times its size.
_FREE_BYTES: Final = 64 << 20
_LARGEST_RATIO: Final = 100
_LOCAL_HEADER: Final = 30
#: A flag: the sizes stand again behind the content, in one of these numbers of bytes.
_DESCRIBED: Final = 8
_DESCRIPTORS: Final = (12, 16, 20, 24)
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive; its bytes begin at ``start`` and are ``size`` when unpacked."""

    name: str
    start: int
    size: int
    packed: bool


def table(path: Path) -> dict[str, Entry]:
    """Every entry by its name, in the order of the file; contents have not been looked at.

    Raises:
        FileError: entries overlap, leave room between them, lie about their sizes, share a name,
            are encrypted, or packed in another way than deflate.
    """
    with reading(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        _check_sizes(path, infos)
        found = [_entry(path, archive, info) for info in infos]
        ends = [info.header_offset for info in infos[1:]] + [archive.start_dir]
        _check_places(path, infos, found, ends)
    return {entry.name: entry for entry in found}


def entries(path: Path) -> dict[str, Entry]:
    """As :func:`table`, with all checksums compared.

    Raises:
        FileError: also where an entry does not fit its checksum.
    """
    found = table(path)
    with reading(path) as archive:
        for name in found:
            with archive.open(name) as file:
                while file.read(_PIECE):
                    pass
    return found


@contextmanager
def reading(path: Path) -> Generator[zipfile.ZipFile]:
    """The open archive; what zipfile stumbles over becomes a refusal."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except FileError:
        raise
    except DAMAGED as error:
        raise refusal(
            path,
            got=f"a zip archive that cannot be opened ({error or type(error).__name__})",
            why="a checksum, a header or a size does not fit its bytes; it may be cut off",
            do="copy or download it again, and compare the sizes",
        ) from error


def _check_sizes(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    size, declared = path.stat().st_size, sum(info.file_size for info in infos)
    if declared > max(_FREE_BYTES, _LARGEST_RATIO * size):
        raise _lie(path, f"{size} bytes that declare {declared} bytes of content")
    names = [info.filename for info in infos]
    if len({*names}) != len(names):
        raise _lie(path, "two entries of one name")
    for info in infos:
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise _lie(path, f"{info.filename!r} packed by method {info.compress_type}")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise _lie(path, f"{info.filename!r} with two sizes")


def _entry(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    with archive.open(info):
        pass  # compares the header before the content with the table
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name, extra = struct.unpack("<26x2H", file.read(_LOCAL_HEADER))
    start = info.header_offset + _LOCAL_HEADER + name + extra
    packed = info.compress_type != zipfile.ZIP_STORED
    return Entry(info.filename, start, info.file_size, packed)


def _check_places(
    path: Path, infos: list[zipfile.ZipInfo], found: list[Entry], ends: list[int]
) -> None:
    """Refuse entries that overlap, and room that an entry missing in the table has left."""
    if infos and infos[0].header_offset != 0:
        raise _lie(path, "something before its first entry")
    for info, entry, end in zip(infos, found, ends, strict=True):
        gap = end - entry.start - info.compress_size
        if gap and not (info.flag_bits & _DESCRIBED and gap in _DESCRIPTORS):
            what = f"{gap} bytes in no entry after" if gap > 0 else "entries that overlap at"
            raise _lie(path, f"{what} {entry.name!r}")


def _lie(path: Path, got: str) -> Exception:
    return refusal(
        path,
        got=got,
        why="the archive is damaged, or made to unpack to more than it holds",
        do="use the file as its framework wrote it",
    )
