"""One booted systemd for all tests in this folder, with both distributions installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.installed import CODE, WHEELS, install
from tests.systemd.machine import Machine, booted, cannot_boot
from tests.systemd.programs import PYTHON
from tests.systemd.services import SOCKET, Service
from tests.wheels import ROOT, wheelhouse


@pytest.fixture(scope="session")
def machine(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Machine]:
    """A machine with ``tallymark`` in /opt/tallymark, for everybody."""
    if reason := cannot_boot():
        pytest.skip(reason)
    built: dict[str, Path] = request.getfixturevalue("wheels")
    wheels = wheelhouse(tmp_path_factory.mktemp("wheelhouse"), list(built.values()))
    # pytest's own folders are for its user alone.
    wheels.chmod(0o755)
    binds = {wheels: WHEELS, ROOT / "tests": CODE / "tests"}
    with booted(tmp_path_factory.mktemp("machine"), binds) as found:
        install(found, PYTHON.parent.parent)
        yield found


@pytest.fixture(scope="session", params=["system", "user"])
def installed(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Service]:
    """The service of either kind, installed."""
    service = Service(machine, request.param == "system", PYTHON.parent)
    service.install()
    yield service
    service.uninstall()


@pytest.fixture
def service(installed: Service) -> Service:
    """The service of either kind: listening, not running, with an empty state."""
    installed.afresh()
    assert installed.active(SOCKET) == "active"
    return installed
