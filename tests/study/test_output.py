from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from evenkeel.errors import FileError
from evenkeel.study._output import FILES, SCHEMA, OutputFolder

CONTENTS = {
    "results.json": json.dumps({"schema": SCHEMA}).encode(),
    "model.safetensors": b"weights",
    "report.html": b"<html>",
}


def listing(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_writes_all_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    folder = OutputFolder.prepare(tmp_path / "a" / "b")
    folder.write(CONTENTS)
    folder.discard_if_new()
    assert listing(tmp_path / "a" / "b") == CONTENTS
    OutputFolder.prepare(tmp_path / "a" / "b").write({"results.json": b"{}"})
    assert listing(tmp_path / "a" / "b")["results.json"] == b"{}"


def test_new_folders_go_away_when_nothing_was_written(tmp_path: Path) -> None:
    OutputFolder.prepare(tmp_path / "a" / "b").discard_if_new()
    assert list(tmp_path.iterdir()) == []
    OutputFolder.prepare(tmp_path).discard_if_new()
    assert tmp_path.exists()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileError, match="is a file, not a folder"):
            OutputFolder.prepare(path)
    with pytest.raises(FileError, match="no permission"):
        OutputFolder.prepare(Path("/proc/none"))


@pytest.mark.parametrize(
    "content",
    [
        b'{"schema": {"name": "evenkeel-study", "version": 99}}',
        b'{"accuracy": 1}',
        b"[1, 2]",
        b"not json",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_results_of_somebody_else_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(FileError, match="did not write"):
        OutputFolder.prepare(tmp_path)
    assert listing(tmp_path) == {"results.json": content}


@pytest.mark.parametrize("name", FILES[1:])
def test_model_or_report_without_results_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(FileError, match=name):
        OutputFolder.prepare(tmp_path)


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_full_disk_leaves_the_earlier_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    folder = OutputFolder.prepare(tmp_path)
    folder.write(CONTENTS)
    calls = iter(range(9))

    def full(handle: int) -> None:
        if next(calls) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("evenkeel.study._output.os.fsync", full)
    with pytest.raises(FileError, match="No space left"):
        folder.write(dict.fromkeys(FILES, b"new"))
    assert listing(tmp_path) == CONTENTS


def test_interruption_while_writing_leaves_the_earlier_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = OutputFolder.prepare(tmp_path)
    folder.write(CONTENTS)

    def stop(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evenkeel.study._output.os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        folder.write(dict.fromkeys(FILES, b"new"))
    assert listing(tmp_path) == CONTENTS
