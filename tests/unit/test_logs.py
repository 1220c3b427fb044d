from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tallymarkd.logs import last_word, set_up_logging

log = logging.getLogger("tallymarkd.test")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_text_has_time_level_logger_and_one_line() -> None:
    out = io.StringIO()
    set_up_logging("info", "text", env={}, stream=out)
    log.debug("not this")
    log.info("a project named %s", "x\ny")
    line = out.getvalue()
    assert line.endswith("Z info tallymarkd.test: a project named x\\ny\n")
    assert line.count("\n") == 1


def test_the_level_is_obeyed() -> None:
    out = io.StringIO()
    set_up_logging("warning", "text", env={}, stream=out)
    log.info("not this")
    log.warning("this")
    assert out.getvalue().count("\n") == 1


def test_json_is_one_object_a_line() -> None:
    out = io.StringIO()
    set_up_logging("info", "json", env={}, stream=out)
    log.info('two\nlines and "quotes"')
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        log.exception("it failed")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["message"] == 'two\nlines and "quotes"'
    assert (first["level"], first["logger"]) == ("info", "tallymarkd.test")
    assert first["time"].endswith("Z")
    assert "exception" not in first
    assert "RuntimeError: broken" in second["exception"]


def test_under_journald_lines_have_a_priority_and_no_time(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as stream:
        found = os.fstat(stream.fileno())
        env = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        set_up_logging("info", "text", env=env, stream=stream)
        log.info("all is well")
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            log.exception("it failed")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert lines[0] == "<6>tallymarkd.test: all is well"
    assert lines[1] == "<3>tallymarkd.test: it failed"
    assert all(line.startswith("<3>") for line in lines[1:])
    assert lines[-1] == "<3>RuntimeError: broken"


def test_who_cannot_log_yet_gives_the_journal_a_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        found = os.fstat(stream.fileno())
        journal = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert last_word("cannot start", env=journal) == "<2>cannot start"
        assert last_word("cannot start", env={}) == "cannot start"


def test_json_is_json_in_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w", encoding="latin-1", errors="backslashreplace") as stream:
        set_up_logging("info", "json", env={}, stream=stream)
        log.info("state in %s", "/tmp/\N{GRINNING FACE}")
    assert json.loads(path.read_bytes())["message"] == "state in /tmp/\N{GRINNING FACE}"


def test_an_inherited_journal_variable_of_another_stream_is_not_believed(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as stream:
        set_up_logging("info", "text", env={"JOURNAL_STREAM": "8:1"}, stream=stream)
        log.info("all is well")
        stream.seek(0)
        assert "Z info tallymarkd.test: all is well" in stream.read()
    out = io.StringIO()
    set_up_logging("info", "text", env={"JOURNAL_STREAM": "8:1"}, stream=out)
    log.info("no descriptor at all")
    assert out.getvalue()[0] != "<"
