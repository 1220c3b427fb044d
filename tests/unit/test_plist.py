from __future__ import annotations

import plistlib
from pathlib import PurePosixPath
from typing import Any

import pytest

from tallymark.errors import PathError
from tallymarkd.service import plist, render
from tests.launchd_keys import complaints

HOME = PurePosixPath("/Users/a & b <c>")


def job(**changed: Any) -> dict[str, Any]:
    made = plist.launch_agent(
        daemon=HOME / "bin" / "tallymarkd",
        state_dir=HOME / "state",
        spool_dir=HOME / "spool",
        socket=HOME / "state" / "run" / "tallymark.sock",
        log_dir=HOME / "Library" / "Logs" / "tallymark",
        environment={"XDG_CONFIG_HOME": str(HOME)},
    )
    return {**made, **changed}


def test_every_key_and_type_is_launchds() -> None:
    assert complaints(job()) == []


def test_what_the_job_says() -> None:
    made = job()
    state = str(HOME / "state")
    assert made["ProgramArguments"] == [
        str(HOME / "bin" / "tallymarkd"),
        "--launchd",
        "--state-dir",
        state,
        "--spool-dir",
        str(HOME / "spool"),
    ]
    (socket,) = made["Sockets"].items()
    assert socket[0] == "tallymarkd"
    assert socket[1]["SockPathName"] == f"{state}/run/tallymark.sock"
    assert socket[1]["SockPathMode"] == 0o600
    assert made["KeepAlive"] == {"SuccessfulExit": False}
    assert made["ExitTimeOut"] > 5
    assert made["StandardErrorPath"].endswith("/Library/Logs/tallymark/tallymarkd.log")


def test_the_text_is_read_back_as_it_was() -> None:
    text = plist.to_text(job())
    assert plistlib.loads(text.encode()) == job()
    assert render.MARK in text
    assert "<!-- " in text.splitlines()[2]


@pytest.mark.parametrize("text", ["/a\x01b", "/a\nb", "/a\udcff"])
@pytest.mark.parametrize("which", ["daemon", "state_dir", "spool_dir", "socket", "log_dir"])
def test_what_no_plist_can_hold_is_refused(which: str, text: str) -> None:
    given: dict[str, Any] = dict.fromkeys(
        ("daemon", "state_dir", "spool_dir", "socket", "log_dir"), HOME
    )
    with pytest.raises(PathError, match="cannot write '/a.*into a LaunchAgent.*choose another"):
        plist.launch_agent(**{**given, which: PurePosixPath(text)})
    with pytest.raises(PathError, match="cannot write '/a.*into a LaunchAgent"):
        plist.launch_agent(**given, environment={"XDG_CONFIG_HOME": text})


def test_no_environment_is_no_key() -> None:
    made = plist.launch_agent(
        daemon=HOME, state_dir=HOME, spool_dir=HOME, socket=HOME, log_dir=HOME
    )
    assert "EnvironmentVariables" not in made


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"Keepalive": True}, "Keepalive: there is no such key"),
        ({"KeepAlive": "yes"}, "KeepAlive: must be bool, is str"),
        ({"KeepAlive": {"SuccessfulExit": 0}}, "KeepAlive.SuccessfulExit: must be bool, is int"),
        ({"KeepAlive": {"OnFailure": True}}, "KeepAlive.OnFailure: there is no such key"),
        ({"Umask": 63.0}, "Umask: must be int, is float"),
        ({"ExitTimeOut": True}, "ExitTimeOut: must be int, is bool"),
        ({"ProgramArguments": "a b"}, "ProgramArguments: must be list, is str"),
        ({"ProgramArguments": ["a", 1]}, "ProgramArguments[1]: must be str, is int"),
        ({"LimitLoadToSessionType": ["Dock"]},
         ("LimitLoadToSessionType[0]: 'Dock' is none of Aqua, Background, LoginWindow, "
          "StandardIO, System")),
        ({"Sockets": {"s": {"SockPathMode": "0600"}}},
         "Sockets.s.SockPathMode: must be int, is str"),
        ({"Sockets": {"s": {"Path": "/a"}}}, "Sockets.s.Path: there is no such key"),
        ({"Sockets": {"s": [{"SockType": "raw"}]}},
         "Sockets.s[0].SockType: 'raw' is none of dgram, seqpacket, stream"),
        ({"SoftResourceLimits": {"Files": 1}}, "SoftResourceLimits.Files: there is no such key"),
        ({"EnvironmentVariables": {"A": 1}}, "EnvironmentVariables.A: must be str, is int"),
    ],
)  # fmt: skip
def test_the_table_catches_what_is_wrong(changed: dict[str, Any], told: str) -> None:
    assert complaints(job(**changed)) == [told]


def test_the_table_knows_what_must_be_there() -> None:
    assert complaints({}) == ["Label: is missing", "Program or ProgramArguments: is missing"]
