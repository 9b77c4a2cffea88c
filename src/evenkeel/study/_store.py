"""The finished runs of a study on disk, so that a study that was stopped can go on.

One SQLite file: a run is in it whole or not at all, whenever the process is killed, and a second
study that would write to the same folder finds it locked.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final

from evenkeel.errors import FileError, explain

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

#: Name of the file in the output folder.
STORE: Final = "runs.sqlite"
#: Stands in the header of the file ("evkl"), so that no database of somebody else is written to.
_APPLICATION: Final = 0x65766B6C
_SCHEMA: Final = (
    "create table study (identity text not null)",
    "create table runs (key text primary key, record blob not null)",
)


class Store:
    """Finished runs by name, and the identity of the study that they belong to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STORE
        self._connection = sqlite3.connect(self.path, isolation_level=None, timeout=0)

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open the file in a folder, or begin one.

        Raises:
            FileError: another study is writing there, or the file is damaged or cannot be written.
        """
        with _refusals(folder / STORE):
            store = cls(folder)
        try:
            with _refusals(store.path):
                store._connection.execute("pragma locking_mode = exclusive")
                # Safe against a killed process; only a power failure could lose the last runs.
                store._connection.execute("pragma synchronous = normal")
                store._claim()
        except FileError:
            store.close()
            raise
        return store

    def _claim(self) -> None:
        """Lock the file and give it its tables, unless it holds something else."""
        self._connection.execute("begin exclusive")
        [tables] = self._connection.execute("select count(*) from sqlite_master").fetchone()
        [owner] = self._connection.execute("pragma application_id").fetchone()
        if tables and owner != _APPLICATION:
            raise sqlite3.DatabaseError("a database of another program")
        if not tables:
            self._connection.execute(f"pragma application_id = {_APPLICATION}")
            for statement in _SCHEMA:
                self._connection.execute(statement)
        self._connection.execute("commit")

    def identity(self) -> dict[str, Any] | None:
        """Return what :meth:`begin` was told, or None for a new file."""
        with _refusals(self.path):
            row = self._connection.execute("select identity from study").fetchone()
        return None if row is None else json.loads(row[0])

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Forget all runs and note which study the coming ones belong to."""
        with _refusals(self.path):
            self._connection.execute("begin")
            self._connection.execute("delete from runs")
            self._connection.execute("delete from study")
            self._connection.execute("insert into study values (?)", (json.dumps(identity),))
            self._connection.execute("commit")

    def finished(self) -> dict[str, bytes]:
        """Return the record of every finished run by name."""
        with _refusals(self.path):
            return dict(self._connection.execute("select key, record from runs").fetchall())

    def add(self, key: str, record: bytes) -> None:
        """Keep one run.

        Raises:
            FileError: the disk is full or the folder went away; the runs before are kept.
        """
        with _refusals(self.path):
            self._connection.execute("insert or replace into runs values (?, ?)", (key, record))

    def close(self) -> None:
        """Let others open the file; without a run in it there is nothing to keep."""
        empty = False
        with contextlib.suppress(sqlite3.Error):  # no such table: not our file
            empty = self._connection.execute("select count(*) from runs").fetchone() == (0,)
        if empty:
            self.path.unlink(missing_ok=True)
        self._connection.close()


@contextlib.contextmanager
def _refusals(path: Path) -> Generator[None]:
    """Turn an error of SQLite into one message."""
    try:
        yield
    except sqlite3.OperationalError as error:
        locked = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
        raise FileError(
            explain(
                asked=f"to keep the finished runs in {path}",
                got="another study that is running there" if locked else str(error),
                why="two studies would mix" if locked else "the file cannot be written",
                do="wait for it or name another --out"
                if locked
                else "make room or name another --out; finished runs are kept, --resume goes on",
            )
        ) from error
    except sqlite3.DatabaseError as error:
        raise FileError(
            explain(
                asked=f"the finished runs in {path}",
                got=str(error),
                why="this is no file of a study, or it is damaged",
                do="delete it to begin again, or name another --out",
            )
        ) from error
