from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tallymark.errors import ConnectError, PathError, StorageError
from tallymarkd import __main__
from tallymarkd._version import __version__
from tallymarkd.config import SETTINGS, Settings, load_settings

Daemon = Callable[..., int]


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """Run the command with the daemon replaced by ``run``; gives the exit code."""
    monkeypatch.setenv("TALLYMARK_STATE_DIR", str(tmp_path / "s"))

    def call(*args: str, run: Callable[[Settings], int] = lambda settings: 0) -> int:
        monkeypatch.setattr(__main__, "_run", run)
        monkeypatch.setattr(sys, "argv", ["tallymarkd", *args])
        with pytest.raises(SystemExit) as caught:
            __main__.main()
        assert isinstance(caught.value.code, int)
        return caught.value.code

    return call


def failing(error: BaseException) -> Callable[[Settings], int]:
    def run(settings: Settings) -> int:
        raise error

    return run


def test_the_daemon_gets_the_settings_and_its_code_is_the_exit_code(daemon: Daemon) -> None:
    seen: list[Settings] = []

    def run(settings: Settings) -> int:
        seen.append(settings)
        return 7

    assert daemon("--strict", "--projects-max", "5", run=run) == 7
    assert seen[0].strict
    assert seen[0].projects_max == 5
    assert seen[0].origins["strict"] == "option --strict"


def test_no_strict_overrides_the_variable(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYMARK_STRICT", "true")
    assert daemon(run=lambda settings: int(settings.strict)) == 1
    assert daemon("--no-strict", run=lambda settings: int(settings.strict)) == 0


def test_every_setting_has_an_option(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon("--help") == 0
    shown = capsys.readouterr().out
    for setting in SETTINGS:
        assert f"{setting.option} " in shown
    assert "TALLYMARK_LOG_LEVEL" in shown


def test_version(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon("--version") == 0
    assert capsys.readouterr().out == f"tallymarkd {__version__}\n"


def test_check_config_shows_every_setting_with_its_origin_and_starts_nothing(
    daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    never = failing(AssertionError("started"))
    assert daemon("--check-config", "--segment-bytes-max", "1MiB", run=never) == 0
    shown = capsys.readouterr().out
    assert '\nsegment_bytes_max = "1 MiB"' in shown
    line = next(line for line in shown.splitlines() if line.startswith("segment_bytes_max"))
    assert line.endswith("# option --segment-bytes-max")
    line = next(line for line in shown.splitlines() if line.startswith("state_dir"))
    assert line.endswith("# variable TALLYMARK_STATE_DIR")
    assert not (tmp_path / "s").exists()


def test_what_check_config_shows_is_a_configuration_file(tmp_path: Path) -> None:
    options = {"state_dir": str(tmp_path / 'a "quoted"\\name'), "strict": "yes"}
    settings = load_settings(options, {"HOME": str(tmp_path)})
    text = __main__.describe(settings)
    assert set(tomllib.loads(text)) == {setting.name for setting in SETTINGS}
    file = tmp_path / "again.toml"
    file.write_text(text, encoding="utf-8")
    again = load_settings({"config": str(file)}, {"HOME": str(tmp_path)})
    for setting in SETTINGS:
        assert getattr(again, setting.name) == getattr(settings, setting.name)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--check-config", "--log-level", "loud"], "debug, info, warning or error"),
        (["--log-level", "loud"], "debug, info, warning or error"),
        (["--nonsense"], "--nonsense"),
        (["stray"], "stray"),
        (["--config", "/nowhere/t.toml"], "/nowhere/t.toml"),
        (["--socket", "/" + "x" * 200], "201 bytes"),
    ],
)
def test_a_wrong_option_or_setting_is_one_line_and_exit_2(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], args: list[str], told: str
) -> None:
    assert daemon(*args, run=failing(AssertionError("started"))) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("tallymarkd: cannot ")
    assert shown.err.count("\n") == 1
    assert told in shown.err


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (StorageError("cannot use /x: another tallymarkd runs on it"), 1, "another tallymarkd"),
        (PathError("cannot listen at /x: a file is in the way"), 2, "a file is in the way"),
        (ConnectError("cannot reach it"), 1, "cannot reach it"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 1, "/x/y: Permission denied"),
        (OSError("odd"), 1, "cannot start: odd"),
        (StorageError("a name\nof two lines"), 1, "cannot start: a name\\nof two lines"),
    ],
)
def test_an_operating_error_is_one_line(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], error: Exception, code: int, told: str
) -> None:
    assert daemon(run=failing(error)) == code
    shown = capsys.readouterr().err
    assert shown.startswith("tallymarkd: cannot ")
    assert told in shown
    assert shown.count("\n") == 1


def test_a_fault_of_its_own_has_a_traceback_and_exit_70(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon(run=failing(RuntimeError("a bug"))) == 70
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "RuntimeError: a bug" in shown


@pytest.mark.parametrize(("error", "code"), [(StorageError("cannot x"), 1), (KeyError("k"), 70)])
def test_with_json_logs_the_last_words_are_json_too(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    assert daemon("--log-format", "json", run=failing(error)) == code
    (line,) = capsys.readouterr().err.splitlines()
    found: dict[str, Any] = json.loads(line)
    assert found["level"] == "critical"
    assert found["message"].startswith("cannot ")
    assert ("exception" in found) == (code == 70)


def test_interrupted_before_the_daemon_listens_to_signals(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon(run=failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


def test_version_and_help_import_no_daemon() -> None:
    program = (
        "import sys, runpy; sys.argv = ['tallymarkd', '--version']\n"
        "try: runpy.run_module('tallymarkd', run_name='__main__')\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    version, modules = done.stdout.split("\n", 1)
    assert version == f"tallymarkd {__version__}"
    for heavy in ("tallymarkd.app", "asyncio", "rich", "psutil", "genai_prices"):
        assert heavy not in modules.split(), f"--version imports {heavy}"
