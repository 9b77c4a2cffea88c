"""The folder a study writes to: checked before training, filled in one go at the end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evenkeel.errors import FileError, explain

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Name and version of the form of ``results.json``; see ``docs/results-schema.md``.
SCHEMA: Final = {"name": "evenkeel-study", "version": 2}
#: In the order in which they take their final names.
FILES: Final = ("results.json", "model.safetensors", "report.html")


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """A writable folder that holds nothing but, at most, an earlier study."""

    path: Path
    created: tuple[Path, ...]

    @classmethod
    def prepare(cls, path: Path) -> OutputFolder:
        """Create the folder if needed and make sure that a study may be written there.

        Raises:
            FileError: it cannot be created or written, or holds files of something else.
        """
        missing = tuple(p for p in (path, *path.parents) if not p.exists())
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            got, do = _obstacle(path, error)
            why = "the results are written to that folder when the study is done"
            raise FileError(explain(asked=f"--out {path}", got=got, why=why, do=do)) from error
        folder = cls(path, missing)
        folder._check_owner()
        return folder

    def has_results(self) -> bool:
        """Say whether an earlier study lies here."""
        return (self.path / FILES[0]).exists()

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Write all files beside their names first, then give each its name in one step.

        Raises:
            FileError: the disk is full or the folder went away; earlier files are untouched.
        """
        waiting: dict[str, Path] = {}
        try:
            for name, content in contents.items():
                waiting[name] = self._write_beside(name, content)
            for name in sorted(waiting, key=FILES.index):
                waiting[name].replace(self.path / name)
        except OSError as error:
            raise FileError(
                explain(
                    asked=f"to write {', '.join(contents)} to {self.path}",
                    got=error.strerror or str(error),
                    why="the files could not be completed",
                    do="make room, and run the study again with --resume: finished runs are kept",
                )
            ) from error
        finally:
            for path in waiting.values():
                path.unlink(missing_ok=True)

    def discard_if_new(self) -> None:
        """Remove the folders that :meth:`prepare` created, if nothing was put there."""
        for path in self.created:
            with contextlib.suppress(OSError):
                path.rmdir()

    def _write_beside(self, name: str, content: bytes) -> Path:
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes private files; results are as readable as any file of the user.
            Path(temporary).chmod(0o666 & ~_umask())
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return Path(temporary)

    def _check_owner(self) -> None:
        present = [name for name in FILES if (self.path / name).exists()]
        if not present or _schema(self.path / FILES[0]) == SCHEMA:
            return
        raise FileError(
            explain(
                asked=f"--out {self.path}",
                got=f"{', '.join(present)} that this study did not write",
                why=f"a study only replaces files beside a results.json of its own form {SCHEMA}",
                do="name another folder, or move those files away",
            )
        )


def _obstacle(path: Path, error: OSError) -> tuple[str, str]:
    """Why no file can be made in a folder, and what to do about it."""
    file = next((p for p in (path, *path.parents) if p.is_file()), None)
    if file is not None:
        return f"{file} is a file, not a folder", "name a folder, or move that file away"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT}:
        # mkdir makes parents, so "not found" is a place such as /proc where nobody makes any.
        return "no permission to write there", "name a folder that you may write to"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "no room left there", "make room, or name a folder on another disk"
    return error.strerror or str(error), "name a folder that you may write to"


def _schema(path: Path) -> Any:  # noqa: ANN401 - whatever stands in a file of somebody else
    """Return the schema entry of a results file, or None if there is none to be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content.get("schema") if isinstance(content, dict) else None


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
