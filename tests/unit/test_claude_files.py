"""Where transcripts are looked for, and what may not be looked into."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tallymark.errors import PathError
from tallymarkd.sources.claude_files import find_transcripts
from tests.claude_files import Files, answer, said


def test_transcripts_are_found_where_claude_code_keeps_them(tmp_path: Path) -> None:
    for folder in (".claude", "elsewhere"):
        nested = tmp_path / folder / "projects" / "p" / "s" / "subagents"
        nested.mkdir(parents=True)
        (nested / "agent-a.jsonl").touch()
        (nested / "agent-a.meta.json").touch()
    home = {"HOME": str(tmp_path)}
    own = home | {"CLAUDE_CONFIG_DIR": str(tmp_path / "elsewhere")}
    assert [path.parts[-6] for path in find_transcripts(None, home)] == [".claude"]
    assert [path.parts[-6] for path in find_transcripts(None, own)] == ["elsewhere"]
    one = tmp_path / ".claude/projects/p/s/subagents/agent-a.jsonl"
    assert find_transcripts(one, {}) == [one]


def test_a_place_without_transcripts_is_named(tmp_path: Path) -> None:
    with pytest.raises(PathError, match=r"cannot import .*absent: No such file or directory;"):
        find_transcripts(tmp_path / "absent", {})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PathError, match="neither a directory nor a regular file"):
        find_transcripts(tmp_path / "pipe", {})


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Directories that may not be listed; root is asked for no permission."""
    directories: set[Path] = set()
    scandir = os.scandir

    def refuse(place: Any) -> Any:
        if Path(place) in directories:
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    return directories


def test_a_directory_that_is_closed_hides_no_other(
    files: Files, closed: set[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ = files.write("one", said("go"), answer("a"))
    inner = files.root / "private"
    inner.mkdir()
    closed.add(inner)

    assert find_transcripts(files.root, {}) == sorted([open_, inner])
    plan = files.plan()
    assert plan.report.responses == 1
    assert list(plan.report.unreadable) == [str(inner)]


def test_the_place_itself_must_be_open(files: Files, closed: set[Path]) -> None:
    files.root.mkdir()
    closed.add(files.root)
    with pytest.raises(PathError, match=f"from {files.root}: Permission denied"):
        find_transcripts(files.root, {})


def test_a_file_that_may_not_be_looked_at_is_left_to_who_reads_it(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.write("one", said("go"), answer("a"))

    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    assert find_transcripts(files.root, {}) == [path]
