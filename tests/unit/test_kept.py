from __future__ import annotations

from pathlib import Path

import pytest

from tallymarkd.service import plist, render
from tallymarkd.service.kept import Kept, from_plist, from_units

ODD = """/odd %h $HOME %% 'a' "b" \\x41 ü;#"""


def kept(folder: str) -> Kept:
    home = Path(folder)
    return Kept(
        state_dir=home / "state",
        spool_dir=home / "spool",
        socket=home / "state" / "run" / "t.sock",
        environment={"XDG_CONFIG_HOME": f"{home}=c"},
    )


def units(places: Kept, *, sandbox: bool = True) -> tuple[str, str]:
    assert places.state_dir
    assert places.spool_dir
    assert places.socket
    texts = render.user_units(
        daemon=render.executable("/opt/a b/100%/tallymarkd"),
        state_dir=render.quote(places.state_dir),
        spool_dir=render.quote(places.spool_dir),
        socket=render.literal(places.socket),
        writable=render.quote(places.state_dir),
        environment=" ".join(render.quote(f"{n}={v}") for n, v in places.environment.items()),
        sandbox=sandbox,
    )
    return texts[render.SOCKET], texts[render.SERVICE]


@pytest.mark.parametrize("folder", ["/plain", ODD])
@pytest.mark.parametrize("sandbox", [True, False])
def test_units_tell_what_was_written_into_them(folder: str, sandbox: bool) -> None:
    assert from_units(*units(kept(folder), sandbox=sandbox)) == kept(folder)


def test_one_unit_tells_what_it_can() -> None:
    socket, service = units(kept("/x"))
    assert from_units(socket, "") == Kept(Path("/x/state"), None, Path("/x/state/run/t.sock"))
    assert from_units("", service).spool_dir == Path("/x/spool")
    assert from_units("", service).socket is None
    assert from_units("", "") == Kept()


def test_only_what_install_gives_it_is_taken_from_its_environment() -> None:
    socket, service = units(kept("/x"))
    service = service.replace("Environment=", "Environment=A=b ")
    assert from_units(socket, service).environment == {"XDG_CONFIG_HOME": "/x=c"}


@pytest.mark.parametrize("folder", ["/plain", ODD])
def test_a_plist_tells_what_was_written_into_it(folder: str) -> None:
    places = kept(folder)
    assert places.state_dir
    assert places.spool_dir
    assert places.socket
    job = plist.launch_agent(
        daemon=Path("/opt/d"),
        state_dir=places.state_dir,
        spool_dir=places.spool_dir,
        socket=places.socket,
        log_dir=Path("/logs"),
        environment=places.environment,
    )
    assert from_plist(plist.to_text(job)) == places
    for damaged in ("", "<plist", "<plist version='1.0'><dict/></plist>"):
        assert from_plist(damaged) == Kept()
