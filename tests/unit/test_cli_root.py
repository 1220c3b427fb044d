from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tallymark.errors import SettingError, StorageError
from tallymarkd._version import __version__
from tallymarkd.cli import root
from tests.tallymark_command import Tallymark


def raising(error: BaseException) -> click.Command:
    def fail() -> None:
        raise error

    return click.Command("status", callback=fail)


def test_version(tallymark: Tallymark) -> None:
    done = tallymark("--version")
    assert (done.code, done.out, done.err) == (0, f"tallymark {__version__}\n", "")


def test_help_lists_every_command_and_tells_of_completion(tallymark: Tallymark) -> None:
    for option in ("-h", "--help"):
        done = tallymark(option)
        assert done.code == 0
        for name, text in root.COMMANDS.items():
            assert f"  {name} " in done.out
            assert text in done.out
        assert "completion bash" in done.out


@pytest.mark.parametrize("name", [*root.COMMANDS, "import claude-code"])
def test_every_command_has_help(tallymark: Tallymark, name: str) -> None:
    done = tallymark(*name.split(), "--help")
    assert done.code == 0
    assert done.out.startswith(f"Usage: tallymark {name} ")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nonsense"], "nonsense"),
        (["--nonsense"], "--nonsense"),
        (["emit", "--timeout", "x" * 1000], f"'{'x' * 60}'… is not a valid"),
        (["--all", "status"], "--all before status is understood only for the numbers"),
        (["--project", "x", "emit"], "--project before emit is understood only"),
        (["status", "--nonsense"], "tallymark status --help"),
        (["status", "stray"], "stray"),
        (["import"], "missing command; tallymark import --help"),
        (["import", "nothing"], "nothing"),
        (["completion"], "Choose from: bash, zsh, fish;"),
        (["completion", "tcsh"], "tcsh"),
        (["--state-dir"], "--state-dir"),
        (["status", "--socket", "/" + "x" * 200], "bytes"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    tallymark: Tallymark, args: list[str], told: str
) -> None:
    done = tallymark(*args)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("tallymark: cannot ")
    assert told in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (SettingError("cannot use x=1"), 2, "tallymark: cannot use x=1\n"),
        (StorageError("cannot read\nx"), 1, "tallymark: cannot read\\nx\n"),
        (StorageError("odd"), 1, "tallymark: cannot go on: odd\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "cannot go on: /x: Permission denied"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_what_fails_is_one_line(
    tallymark: Tallymark,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    monkeypatch.setattr(root.LazyGroup, "get_command", lambda *_: raising(error))
    done = tallymark("status")
    assert done.code == code
    assert told in done.err
    assert done.err.count("\n") == (1 if told else 0)


def test_global_options_may_stand_before_or_after_the_command(
    tallymark: Tallymark, tmp_path: Path
) -> None:
    for args in (
        ["--json", "--state-dir", str(tmp_path / "x"), "status"],
        ["status", "--json", "--state-dir", str(tmp_path / "x")],
    ):
        done = tallymark(*args)
        assert done.code == 1
        assert not done.json["running"]
        assert str(tmp_path / "x") in done.json["cause"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(tallymark: Tallymark, shell: str) -> None:
    done = tallymark("completion", shell)
    assert done.code == 0
    assert f"_TALLYMARK_COMPLETE={shell}_complete" in done.out


def test_completion_of_commands_and_options(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_TALLYMARK_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("COMP_WORDS", "tallymark he")
    assert tallymark().out == "plain,health\n"
    monkeypatch.setenv("COMP_WORDS", "tallymark health --d")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert tallymark().out == "plain,--deep\n"


def test_nobody_reading_on_is_no_error() -> None:
    program = (
        "import sys, click\n"
        "from tallymarkd.cli import root\n"
        "def flood():\n"
        "    for number in range(100_000): click.echo(number)\n"
        "root.LazyGroup.get_command = lambda *_: click.Command('status', callback=flood)\n"
        "sys.exit(root.run(['status']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == root.EXIT_BROKEN_PIPE
