from __future__ import annotations

from pathlib import Path

import pytest

from tallymark.errors import PathError
from tallymarkd.service.places import system_places, user_places
from tests.service_parts import FakeManager


@pytest.fixture
def fake(tmp_path_factory: pytest.TempPathFactory) -> FakeManager:
    # A socket's path must be short.
    return FakeManager(tmp_path_factory.mktemp("m"))


def test_the_usual_places_are_those_of_every_client(fake: FakeManager) -> None:
    found = user_places(fake.machine())
    state = fake.home / ".local" / "state" / "tallymark"
    assert (found.state_dir, found.spool_dir) == (state, state / "spool")
    assert found.socket == state / "run" / "tallymark.sock"
    assert found.environment == {}
    assert found.notes == []


def test_on_a_mac(fake: FakeManager) -> None:
    found = user_places(fake.machine(platform="darwin"))
    assert found.state_dir == fake.home / "Library" / "Application Support" / "tallymark"


def test_xdg_and_what_then_does_not_find_it(fake: FakeManager) -> None:
    found = user_places(fake.machine(XDG_STATE_HOME="/data", XDG_CONFIG_HOME="/conf"))
    assert found.state_dir == Path("/data/tallymark")
    assert found.spool_dir == Path("/data/tallymark/spool")
    assert found.environment == {"XDG_CONFIG_HOME": "/conf"}
    (note,) = found.notes
    assert note.endswith("give it TALLYMARK_SOCKET=/data/tallymark/run/tallymark.sock")


def test_a_state_directory_of_its_own_leaves_the_spool_where_clients_leave_it(
    fake: FakeManager,
) -> None:
    machine = fake.machine(TALLYMARK_STATE_DIR="/s/../state")
    usual = fake.home / ".local" / "state" / "tallymark" / "spool"
    assert user_places(machine).state_dir == Path("/state")
    assert user_places(machine).spool_dir == usual
    assert user_places(machine, Path("/option")).state_dir == Path("/option")
    assert user_places(fake.machine(TALLYMARK_SPOOL_DIR="/p")).spool_dir == Path("/p")


def test_who_does_not_find_the_service_by_itself_is_told(fake: FakeManager) -> None:
    (by_variable,) = user_places(fake.machine(TALLYMARK_STATE_DIR="/s")).notes
    assert by_variable.startswith("what does not have your environment, cron for example")
    (by_option,) = user_places(fake.machine(), Path("/s")).notes
    usual = fake.home / ".local" / "state" / "tallymark"
    assert by_option == (
        f"clients look for tallymarkd in {usual}: give them TALLYMARK_SOCKET=/s/run/tallymark.sock"
    )
    (against,) = user_places(fake.machine(TALLYMARK_STATE_DIR="/v"), Path("/s")).notes
    assert against.startswith("clients look for tallymarkd in /v: give them TALLYMARK_SOCKET=/s/")
    pointed = fake.machine(TALLYMARK_SOCKET="/s/x/../run/tallymark.sock")
    assert user_places(pointed, Path("/s")).notes[0].startswith("what does not have your")


def test_the_usual_config_home_needs_no_variable(fake: FakeManager) -> None:
    usual = str(fake.home / ".config")
    assert user_places(fake.machine(XDG_CONFIG_HOME=usual)).environment == {}
    assert user_places(fake.machine(XDG_CONFIG_HOME="relative")).environment == {}


def test_variables_that_do_not_reach_the_service_are_told(fake: FakeManager) -> None:
    machine = fake.machine(TALLYMARK_LOG_LEVEL="debug", TALLYMARK_SOCKET="/else", TALLYMARK_CI="1")
    pointed, left = user_places(machine).notes
    assert pointed.startswith("TALLYMARK_SOCKET=/else leads clients elsewhere")
    assert left.startswith("TALLYMARK_LOG_LEVEL: the service does not have it")
    assert left.endswith("/.config/tallymark/tallymarkd.toml")


def test_a_socket_path_that_is_too_long(fake: FakeManager) -> None:
    with pytest.raises(PathError, match="cannot use socket path"):
        user_places(fake.machine(), Path("/" + "x" * 120))


def test_the_systems_places() -> None:
    found = system_places()
    assert str(found.state_dir) == "/var/lib/tallymark"
    assert str(found.socket) == "/run/tallymark/tallymark.sock"
