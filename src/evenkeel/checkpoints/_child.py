"""Runs a parser that can hang or crash on hostile input in a process of its own.

The process is started when it is first asked, serves one request after the other (each in a
fork with limits, see ``_worker_loop.py``), and leaves by itself when nothing is asked.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Exit status of a worker that answers with the text of a refusal.
_REFUSED: Final = 3
_MEGABYTE: Final = 1 << 20
_ENVIRONMENT: Final = {
    "HDF5_PLUGIN_PRELOAD": "::",  # loads no filter from a library on the disk
    "HDF5_USE_FILE_LOCKING": "FALSE",
    "OPENBLAS_NUM_THREADS": "1",  # its threads would count against the memory limit
}


class ChildError(Exception):
    """The parser refused, died, or hit a limit; the text completes the word "that"."""


@dataclass
class Child:
    """One worker program and the process that runs it.

    Args:
        script: path of the worker.
        seconds: time that one request may take.
        memory: bytes that one request may take beyond what the process holds at rest.
        library: what runs in it, for messages.
    """

    script: Path
    seconds: float = 30.0
    memory: int = 512 * _MEGABYTE
    library: str = "the library of this format"
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _owner: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ask(self, request: Mapping[str, Any], most: int) -> bytearray:
        """Send a request and give back the answer, which may have ``most`` bytes.

        Raises:
            ChildError: the parser refused the file, died, or hit a limit.
        """
        limits = {"seconds": self.seconds, "memory": self.memory + 2 * most}
        line = json.dumps({**request, **limits}).encode() + b"\n"
        with self._lock:
            try:
                answer, status = self._exchange(line, most)
            except BaseException:
                self.close()
                raise
        if status == _REFUSED:
            raise ChildError(f"cannot be used ({answer.decode(errors='replace')})")
        if status:
            raise ChildError(self._death(status))
        return answer

    def close(self) -> None:
        """End the process, if one runs."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            # What a dead process did not take can no longer be flushed.
            with contextlib.suppress(OSError):
                cast("IO[bytes]", pipe).close()

    def _exchange(self, line: bytes, most: int) -> tuple[bytearray, int]:
        # A process that has left for want of requests is noticed only when it is asked.
        with contextlib.suppress(BrokenPipeError, EOFError):
            if self._process is not None and self._owner == os.getpid():
                return self._send(self._process, line, most)
        self.close()
        self._process, self._owner = self._start(), os.getpid()
        try:
            return self._send(self._process, line, most)
        except (BrokenPipeError, EOFError) as error:
            raise ChildError(
                f"cannot be read here, because {self.library} does not start; if it is not "
                'installed: pip install "evenkeel[formats]", or [flax]'
            ) from error

    def _start(self) -> subprocess.Popen[bytes]:
        atexit.unregister(self.close)
        atexit.register(self.close)
        return subprocess.Popen(  # noqa: S603 - our own program
            # -P keeps the worker's folder, whose files have short names, off its path.
            [sys.executable, "-P", str(self.script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
        )

    def _send(
        self, process: subprocess.Popen[bytes], line: bytes, most: int
    ) -> tuple[bytearray, int]:
        stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        stdin.write(line)
        stdin.flush()
        answer = bytearray()
        while length := int.from_bytes(_exactly(stdout, 4), "little"):
            answer += _exactly(stdout, length)
            if len(answer) > most + _MEGABYTE:
                raise ChildError(f"makes {self.library} answer without end")
        return answer, int(stdout.readline())

    def _death(self, status: int) -> str:
        if status == -signal.SIGALRM:
            return f"{self.library} cannot finish within {self.seconds:g} s"
        if status < 0:
            return f"makes {self.library} crash (signal {-status})"
        return f"makes {self.library} end with status {status}"


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) != count:
        raise EOFError
    return data


#: The process in which all HDF5 files are read.
HDF5: Final = Child(Path(__file__).with_name("_hdf5_worker.py"), library="h5py")
