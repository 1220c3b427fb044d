from __future__ import annotations

from pathlib import Path

import pytest

from tallymark.fs import OsFileSystem
from tallymarkd.service.installation import Installation
from tallymarkd.service.launchctl import Launchd
from tallymarkd.service.machine import Ran, ServiceError
from tallymarkd.service.managers import Condition
from tallymarkd.service.places import user_places
from tallymarkd.service.plist import LABEL
from tests.service_parts import FakeManager

FS = OsFileSystem()
STOPPED = Condition(listening=False, running=False, enabled=False)
LOADED = Condition(listening=True, running=True, enabled=True)
JOB = f"gui/501/{LABEL}"


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeManager:
    return FakeManager(tmp_path_factory.mktemp("m"))


def manager(fake: FakeManager, **env: str) -> Launchd:
    # The usual place is too long for a socket, below a test's directory.
    env = {"TALLYMARK_STATE_DIR": "/s", **env}
    machine = fake.machine(platform="darwin", uid=501, **env)
    installed = Installation(Path("/opt/bin/tallymarkd"), Path("/opt/bin/python"))
    return Launchd(machine, FS, installed, user_places(machine))


def commands(steps: object) -> list[str]:
    assert isinstance(steps, list)
    return [" ".join(step.command) for step in steps]


def test_the_file(fake: FakeManager) -> None:
    found = manager(fake, XDG_CONFIG_HOME="/conf")
    ((path, text),) = found.files().items()
    assert path == fake.home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    assert [path] == found.paths()
    assert found.installed_files() == {path: text}
    assert "<string>/opt/bin/tallymarkd</string>" in text
    assert "<key>XDG_CONFIG_HOME</key>" in text
    assert f"{fake.home}/Library/Logs/tallymark/tallymarkd.log" in text


def test_check(fake: FakeManager) -> None:
    manager(fake).check()
    fake.fails["launchctl print gui/501"] = Ran(125, err="Domain does not support\n")
    with pytest.raises(ServiceError, match="cannot reach launchd for alice: Domain does not"):
        manager(fake).check()


def test_condition(fake: FakeManager) -> None:
    assert manager(fake).condition() == STOPPED
    fake.loaded = True
    assert manager(fake).condition() == LOADED
    fake.fails[f"launchctl print {JOB}"] = Ran(0, out="job = {\n\tstate = not running\n")
    assert not manager(fake).condition().running


def test_it_is_loaded_anew_only_when_it_has_changed(fake: FakeManager) -> None:
    found = manager(fake)
    path = found.paths()[0]
    bootstrap = f"launchctl bootstrap gui/501 {path}"
    directories = [
        f"mkdir -p -m 700 {fake.home}/Library/Logs/tallymark",
        "mkdir -p -m 700 /s/run",
    ]
    assert commands(found.after_writing(set(), LOADED)) == directories
    loading = [*directories, f"launchctl enable {JOB}", bootstrap]
    assert commands(found.after_writing({path}, STOPPED)) == loading
    # Unloaded before the file is new: an install that is cut off leaves no old job beside it.
    assert commands(found.before_writing({path}, LOADED)) == [
        f"launchctl bootout {JOB}",
        f"launchctl print {JOB}",
    ]
    assert commands(found.after_writing({path}, LOADED)) == loading
    assert found.before_writing(set(), LOADED) == []
    assert found.before_writing({path}, STOPPED) == []
    (out, gone) = found.before_removing()
    assert out.may_fail
    assert gone.until_it_fails
    assert found.after_removing() == []


def test_the_installed_file_tells_where_the_state_is(fake: FakeManager) -> None:
    old = manager(fake, TALLYMARK_STATE_DIR="/old & <1>")
    assert manager(fake).state_dir() == Path("/s")
    ((path, text),) = old.files().items()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert manager(fake).state_dir() == Path("/old & <1>")
    for damaged in ("", "<plist", "<plist version='1.0'><dict/></plist>"):
        path.write_text(damaged)
        assert manager(fake).state_dir() == Path("/s")


def test_lines(fake: FakeManager) -> None:
    lines = manager(fake).lines()
    assert lines.stop == f"launchctl bootout {JOB}"
    assert lines.restart == f"launchctl kickstart -k {JOB}"
    assert lines.log.startswith("tail -F ")
    assert manager(fake).notes() == []
