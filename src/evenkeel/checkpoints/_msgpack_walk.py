"""Finds the arrays of a msgpack file by their places, without loading their values."""

from __future__ import annotations

import math
import re
import struct
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from evenkeel.checkpoints._values import BFLOAT16, PLAIN, itemsize

if TYPE_CHECKING:
    from pathlib import Path

CHUNKED: Final = "__msgpack_chunked_array__"
#: (offset of the first byte in the file, number of bytes)
Chunk: TypeAlias = tuple[int, int]
#: (shape, element type, pieces)
Described: TypeAlias = tuple[tuple[int, ...], str, list[Chunk]]

#: Far beyond what a network nests and holds; a few bytes can declare millions of entries.
_DEEPEST: Final = 64
_MOST_OBJECTS: Final = 100_000
#: Bytes in which everything but an array fits as a rule, and those in which it must.
_WINDOW: Final = 512
_LARGEST_VALUE: Final = 1 << 20
#: First byte -> how the length after it is written (https://github.com/msgpack/msgpack, spec.md).
_EXTENSIONS: Final = {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"}
_FIXED_EXTENSIONS: Final = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_BINARIES: Final = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_COMPLEX: Final = 2
_ARRAYS: Final = (1, 3)
#: Types of one byte that are listed and not read.
_ONE_BYTE: Final = re.compile(r"float8_\w+|u?int[24]")


class DamagedError(Exception):
    """The file is no whole dict of arrays; the text completes "a file with"."""


class _Array(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    offset: int
    size: int


class _Skipped(NamedTuple):
    """Something that is neither an array nor a JSON value."""


def walk(path: Path) -> tuple[dict[str, Described], dict[str, Any], list[str]]:
    """Every array, every other JSON value, and the names of the rest.

    Raises:
        DamagedError: the file is no whole msgpack dict, or an array does not fit its bytes.
    """
    with path.open("rb") as file:
        walker = _Walker(file, path.stat().st_size)
        top, end = walker.item(0, 0)
    if end != walker.size or not isinstance(top, dict):
        raise DamagedError(f"{walker.size - end} bytes after its end")
    arrays: dict[str, Described] = {}
    values: dict[str, Any] = {}
    rest: list[str] = []
    for name, leaf in _leaves(cast("dict[str, Any]", top), ""):
        if name in arrays or name in values or name in rest:
            raise DamagedError(f"two entries called {name}")
        if isinstance(leaf, _Array):
            arrays[name] = (leaf.shape, leaf.dtype, [(leaf.offset, leaf.size)])
        elif isinstance(leaf, dict):
            arrays[name] = _joined(name, cast("dict[str, Any]", leaf))
        elif isinstance(leaf, _Skipped):
            rest.append(name)
        else:
            values[name] = leaf
    return arrays, values, rest


def _leaves(node: dict[str, Any], prefix: str) -> Any:  # noqa: ANN401 - pairs of name and leaf
    for key, entry in node.items():
        name = f"{prefix}{key}"
        if isinstance(entry, dict) and CHUNKED not in entry:
            yield from _leaves(cast("dict[str, Any]", entry), f"{name}/")
        else:
            yield name, entry


def _joined(name: str, parts: dict[str, Any]) -> Described:
    """An array that Flax cut into pieces."""
    shape, chunks = _numbered(parts.get("shape")), _numbered(parts.get("chunks"))
    flat = [chunk for chunk in chunks or [] if isinstance(chunk, _Array) and len(chunk.shape) == 1]
    dtypes = {chunk.dtype for chunk in flat}
    if parts.keys() != {CHUNKED, "shape", "chunks"} or shape is None or not flat:
        raise DamagedError(f"{name}, a cut array without its shape or its pieces")
    if len(flat) != len(chunks or []) or len(dtypes) != 1 or not _is_shape(shape):
        raise DamagedError(f"{name}, a cut array whose pieces are of different kinds")
    if sum(chunk.shape[0] for chunk in flat) != math.prod(shape):
        raise DamagedError(f"{name}, a cut array whose pieces do not fill its shape {shape}")
    return tuple(shape), dtypes.pop(), [(chunk.offset, chunk.size) for chunk in flat]


def _numbered(entry: object) -> list[Any] | None:
    """The values of a dict with the keys "0", "1", ..."""
    if not isinstance(entry, dict):
        return None
    found = cast("dict[str, Any]", entry)
    keys = [str(index) for index in range(len(found))]
    return [found[key] for key in keys] if found.keys() == {*keys} else None


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list | tuple) and all(
        type(n) is int and n >= 0 for n in cast("list[Any]", shape)
    )


class _Walker:
    """Goes from object to object of a file; only the small ones are read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size, self.left = file, size, _MOST_OBJECTS

    def item(self, at: int, depth: int) -> tuple[Any, int]:
        """The object at an offset, and the offset after it."""
        self.left -= 1
        if self.left < 0 or depth > _DEEPEST:
            raise DamagedError(f"more than {_MOST_OBJECTS} objects, or {_DEEPEST} dicts in dicts")
        first = (self.bytes(at, 1) or b"\xc1")[0]
        if 0x80 <= first <= 0x8F or first in {0xDE, 0xDF}:
            return self.mapping(at, depth)
        if 0x90 <= first <= 0x9F or first in {0xDC, 0xDD}:
            return self.sequence(at, depth)
        if first in _EXTENSIONS or first in _FIXED_EXTENSIONS:
            return self.extension(at, first)
        if first in _BINARIES:
            start, length = self.binary(at)
            return _Skipped(), self.inside(start + length)
        return self.take(at, "unpack")

    def mapping(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        """A dict; keys that are numbers (lists in NNX) become text."""
        count, at = self.take(at, "read_map_header")
        found: dict[str, Any] = {}
        for _ in range(count):
            key, at = self.take(at, "unpack")
            if not isinstance(key, str | int):
                raise DamagedError(f"a key of type {type(key).__name__}")
            if str(key) in found:
                raise DamagedError(f"the key {key!r} twice in one dict")
            found[str(key)], at = self.item(at, depth + 1)
        return found, at

    def sequence(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        """A list, as a dict with the keys "0", "1", ... that Flax makes of lists itself."""
        count, at = self.take(at, "read_array_header")
        found: dict[str, Any] = {}
        for index in range(count):
            found[str(index)], at = self.item(at, depth + 1)
        return found, at

    def extension(self, at: int, first: int) -> tuple[_Array | _Skipped, int]:
        """An array, or something of another type."""
        length, at = _FIXED_EXTENSIONS.get(first, 0), at + 1
        if not length:
            length, at = self.number(at, _EXTENSIONS[first])
        code, start = self.number(at, ">b")
        end = self.inside(start + length)
        if code == _COMPLEX:
            return _Skipped(), end
        if code not in _ARRAYS:
            raise DamagedError(f"an extension of type {code} at byte {at}")
        return self.array(start, end), end

    def array(self, at: int, end: int) -> _Array:
        """The array whose description begins at an offset."""
        start = at
        count, at = self.take(at, "read_array_header")
        shape, at = self.take(at, "unpack")
        dtype, at = self.take(at, "unpack")
        dtype = dtype.decode(errors="replace") if isinstance(dtype, bytes) else dtype
        if count != 3 or not _is_shape(shape) or not isinstance(dtype, str):
            raise DamagedError(f"an array at byte {start} without a shape and an element type")
        offset, size = self.binary(at)
        if offset + size != end or math.prod(shape) * _itemsize(dtype, start) != size:
            raise DamagedError(
                f"an array at byte {start} whose shape {tuple(shape)} of {dtype} does not fit its "
                f"{size} bytes"
            )
        return _Array(tuple(shape), dtype, offset, size)

    def binary(self, at: int) -> Chunk:
        """Where the content of a byte string begins, and its length."""
        form = _BINARIES.get((self.bytes(at, 1) or b"\xc1")[0])
        if form is None:
            raise DamagedError(f"no bytes where those of an array were to be, at byte {at}")
        length, start = self.number(at + 1, form)
        return start, length

    def number(self, at: int, form: str) -> tuple[int, int]:
        """An integer of a fixed form, and the offset after it."""
        size = struct.calcsize(form)
        data = self.bytes(at, size)
        if len(data) != size:
            raise DamagedError(f"its end at byte {self.size}, inside an object")
        return struct.unpack(form, data)[0], at + size

    def take(self, at: int, what: str) -> tuple[Any, int]:
        """What a method of msgpack's Unpacker finds at an offset, and the offset after it."""
        import msgpack

        for window in (_WINDOW, _LARGEST_VALUE):
            unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
            unpacker.feed(self.bytes(at, window))
            try:
                return getattr(unpacker, what)(), at + unpacker.tell()
            except msgpack.OutOfData:
                continue
            except Exception as error:  # msgpack raises many kinds, by its release
                raise DamagedError(f"no valid object at byte {at} ({error})") from error
        raise DamagedError(f"its end inside the object at byte {at}, or a text without end")

    def bytes(self, at: int, count: int) -> bytes:
        """Bytes of the file."""
        self.file.seek(at)
        return self.file.read(count)

    def inside(self, end: int) -> int:
        """The offset of the end of an object, which must be in the file."""
        if end > self.size:
            raise DamagedError(f"its end at byte {self.size}, {end - self.size} bytes too early")
        return end


def _itemsize(dtype: str, at: int) -> int:
    if dtype in PLAIN or dtype == BFLOAT16:
        return itemsize(dtype)
    if _ONE_BYTE.fullmatch(dtype):
        return 1
    raise DamagedError(f"an array at byte {at} with elements of type {dtype[:40]!r}")
