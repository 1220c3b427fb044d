from __future__ import annotations

from pathlib import Path

import pytest

from tallymark.protocol.messages import HealthReport
from tallymarkd.service.machine import Machine, Ran
from tallymarkd.service.render import SERVICE, SOCKET
from tests.service_parts import FakeManager
from tests.tallymark_command import Tallymark


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> FakeManager:
    made = FakeManager(tmp_path_factory.mktemp("m"))
    made.fails["systemd-run"] = Ran(217)

    def machine(env: dict[str, str], ask: object) -> Machine:
        given = {name: env[name] for name in ("TALLYMARK_STATE_DIR", "HOME") if name in env}
        return made.machine(uid=1000, **given)

    monkeypatch.setattr("tallymarkd.service.machine.this_machine", machine)
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.setenv("TALLYMARK_STATE_DIR", str(made.root / "s"))
    return made


@pytest.fixture
def tallymark(
    fake: FakeManager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tallymark:
    return Tallymark(fake.root, monkeypatch, capsys)


def units(fake: FakeManager) -> Path:
    return fake.home / ".config" / "systemd" / "user"


def test_install_says_what_a_person_types_next(tallymark: Tallymark, fake: FakeManager) -> None:
    done = tallymark("service", "install")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == f"written    {units(fake) / SOCKET}"
    assert lines[-4:] == [
        "start      systemctl --user start tallymarkd.socket",
        "stop       systemctl --user stop tallymarkd.socket",
        "restart    systemctl --user restart tallymarkd.service",
        "log        journalctl --user-unit tallymarkd.service --follow",
    ]
    assert f"--state-dir {fake.root}/s " in (units(fake) / SERVICE).read_text()
    # The tests run from the source, and here a service has no namespaces.
    assert "editable installation" in done.err
    assert "no namespaces" in done.err


def test_an_option_goes_before_the_variable(tallymark: Tallymark, fake: FakeManager) -> None:
    assert tallymark("service", "install", "--state-dir", f"{fake.root}/o").code == 0
    assert f"--state-dir {fake.root}/o " in (units(fake) / SERVICE).read_text()


def test_a_dry_run_prints_files_and_commands(tallymark: Tallymark, fake: FakeManager) -> None:
    done = tallymark("service", "install", "--dry-run")
    assert done.code == 0
    assert done.out.startswith(f"# file {units(fake) / SOCKET}\n# Written by ")
    assert done.out.splitlines()[-1] == "run systemctl --user enable --now tallymarkd.socket"
    assert not units(fake).exists()
    assert fake.changes == []


def test_a_dry_run_for_the_system_is_shown_to_anybody(tallymark: Tallymark) -> None:
    done = tallymark("service", "install", "--system", "--dry-run")
    assert done.code == 2
    assert "\n# file /" in done.out
    assert "only root may" in done.err


def test_status_of_nothing_is_2(tallymark: Tallymark) -> None:
    done = tallymark("service", "status")
    assert done.code == 2
    assert done.out.startswith("systemd user service: not installed\n  missing ")


def test_status(tallymark: Tallymark, fake: FakeManager, monkeypatch: pytest.MonkeyPatch) -> None:
    tallymark("service", "install")
    # Where the service is, is known from its unit.
    monkeypatch.delenv("TALLYMARK_STATE_DIR")
    done = tallymark("service", "status")
    assert done.code == 0, done.out
    assert f"socket     {fake.root}/s/run/tallymark.sock (listening)" in done.out
    assert "starts at the first connection" in done.out
    assert "health" not in done.out
    fake.state[SERVICE] = "active"
    assert "  daemon     running\n  health     ok\n" in tallymark("service", "status").out
    fake.answer = HealthReport(id=1, status="failing")
    done = tallymark("service", "status", "--json")
    assert done.code == done.json["exit_code"] == 1
    assert done.json["problems"] == ["health is failing: tallymark health says why"]
    assert done.json["daemon"]["status"] == "failing"
    assert done.json["files"][str(units(fake) / SOCKET)] == "current"
    fake.state.update({SOCKET: "inactive", SERVICE: "inactive"})
    done = tallymark("service", "status")
    assert done.code == 1
    assert "  daemon     stopped\n  ! it is stopped: systemctl --user start" in done.out


def test_uninstall(tallymark: Tallymark, fake: FakeManager) -> None:
    tallymark("service", "install")
    done = tallymark("service", "uninstall")
    assert done.code == 0
    assert done.out.splitlines()[-1] == f"kept       {fake.root}/s: what was recorded"
    assert not list(units(fake).glob("tallymarkd*"))
    done = tallymark("service", "uninstall")
    assert (done.code, done.err) == (0, "there is no service to remove\n")


def test_what_fails_is_one_line(tallymark: Tallymark, fake: FakeManager) -> None:
    fake.fails["systemctl --user show"] = Ran(1, err="Failed to connect to bus\n")
    for name in ("install", "uninstall", "status"):
        done = tallymark("service", name)
        assert done.code == 1
        assert done.err.splitlines()[-1].startswith(
            "tallymark: cannot reach the systemd user manager of alice: Failed to connect to bus"
        )


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["install", "--system"], "cannot handle the system's service: only root may"),
        (["install", "--system", "--state-dir", "/s"], "cannot use --state-dir with --system"),
        (["install", "--socket", "/s"], "choose that with --state-dir"),
        (["status", "--json", "--socket", "/s"], "choose that with --state-dir"),
        (["install", "--stat-dir", "/s"], "no such option"),
        (["unistall"], "no such command"),
        ([], "missing command"),
    ],
)
def test_wrong_usage_is_2(tallymark: Tallymark, args: list[str], told: str) -> None:
    done = tallymark("service", *args)
    assert done.code == 2
    assert told in done.err
    assert len(done.err.splitlines()[-1:]) == 1
