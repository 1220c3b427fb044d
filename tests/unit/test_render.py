from __future__ import annotations

from pathlib import Path

import pytest

from tallymark.errors import PathError
from tallymarkd._version import __version__
from tallymarkd.service import render


@pytest.mark.parametrize(
    ("path", "word", "value"),
    [
        ("/home/a/.local/bin/tallymarkd", None, None),
        ("/home/a b", '"/home/a b"', "/home/a b"),
        ("/100%h", '"/100%%h"', "/100%%h"),
        ("/$HOME", '"/$HOME"', "/$HOME"),
        ("/a\\b", '"/a\\\\b"', "/a\\b"),
        ('/a"b', '"/a\\"b"', '/a"b'),
        ("/a;b", '"/a;b"', "/a;b"),
        ("/müller", '"/müller"', "/müller"),
    ],
)
def test_quoting(path: str, word: str | None, value: str | None) -> None:
    assert render.quote(Path(path)) == (word or path)
    assert render.literal(Path(path)) == (value or path)


@pytest.mark.parametrize("path", ["/a\nb", "/a\tb", "/a\x7f", "/a\udcff", "/a ", "/a\\"])
@pytest.mark.parametrize("write", [render.quote, render.literal, render.executable])
def test_what_no_unit_can_hold_is_refused(path: str, write: object) -> None:
    assert callable(write)
    with pytest.raises(PathError, match="cannot write"):
        write(path)


@pytest.mark.parametrize("path", ["/a'b", '/a"b', "/a\\b"])
def test_an_executable_has_no_quotes(path: str) -> None:
    with pytest.raises(PathError, match="cannot write"):
        render.executable(path)


def user(**changed: object) -> str:
    given: dict[str, object] = {
        "daemon": "/bin/d",
        "state_dir": "/s",
        "spool_dir": "/p",
        "socket": "/s/run/t.sock",
        "writable": "/s /p",
    }
    return render.user_units(**{**given, **changed})[render.SERVICE]  # type: ignore[arg-type]


def test_a_users_units() -> None:
    text = user()
    assert "\nExecStart=:/bin/d --state-dir /s --spool-dir /p\n" in text
    assert "\nReadWritePaths=/s /p\n" in text
    assert "@{" not in text
    assert "\nEnvironment=" not in text
    assert "\nEnvironment=A=b\n" in user(environment="A=b")


def test_without_namespaces_the_rest_of_the_hardening_stays() -> None:
    text = user(sandbox=False)
    assert "PrivateUsers=" not in text
    assert "ReadWritePaths=" not in text
    # Outside of PrivateUsers= a user's manager may not, and the service would not start.
    assert "CapabilityBoundingSet=" not in text
    assert "\nCapabilityBoundingSet=\n" in user()
    assert "\nSystemCallFilter=@system-service\n" in text


def test_the_systems_units() -> None:
    texts = render.system_units(daemon="/bin/d", socket="/run/s")
    assert "\nListenStream=/run/s\n" in texts[render.SOCKET]
    assert (
        "\nExecStart=:/bin/d --state-dir /var/lib/tallymark "
        "--spool-dir /var/lib/tallymark/spool --serve all\n" in texts[render.SERVICE]
    )
    assert "\nCapabilityBoundingSet=\n" in texts[render.SERVICE]


def test_what_both_services_have_is_written_once() -> None:
    alike = render.system_units(daemon="/bin/d", socket="/s")[render.SERVICE]
    unset = "UnsetEnvironment=TALLYMARK_SOCKET TALLYMARK_LAUNCHD PYTHONHOME PYTHONPATH"
    for line in (unset, "RestartPreventExitStatus=2", "WatchdogSec=30s", "RestrictNamespaces=yes"):
        assert f"\n{line}\n" in user()
        assert f"\n{line}\n" in alike


@pytest.mark.parametrize(
    "text",
    [
        user(),
        render.system_units(daemon="/bin/d", socket="/s")[render.SOCKET],
        render.sysusers(),
    ],
)
def test_every_file_has_our_mark_and_version(text: str) -> None:
    first = text.splitlines()[0]
    assert first == f"# {render.marker()}"
    assert render.MARK in first
    assert f" {__version__}," in first


def test_only_the_marks_version_is_left_out_of_comparisons() -> None:
    text = user()
    newer = text.replace(__version__, "9.9.9")
    assert newer != text
    assert render.without_version(newer) == render.without_version(text)
    assert render.without_version(user(daemon="/x")) != render.without_version(text)
