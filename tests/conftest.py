"""What all tests share: nothing leaks in or out, and in CI nothing is skipped in silence."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data" / "claude-code"

CI_VARIABLE = "TALLYMARK_CI"
PLATFORM_REASON = "not on this platform:"
NO_SHARED_DATA = f"no recorded transcripts at {SHARED_DATA}"

# A machine that does other things as well would fail examples for being slow.
hypothesis.settings.register_profile(
    "tallymark", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tallymark")

# With it every process that a test starts would compile every module of ours anew,
# which an installed program never does: its start would be measured with that.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell has what it runs in the background ignore it, and so would every process that
# a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Read once: the fixture below removes it from the environment of every test.
IN_CI = os.environ.get(CI_VARIABLE, "") not in ("", "0")


def pytest_configure(config: pytest.Config) -> None:
    """Spare the paths of sockets, which are short, the name that xdist gives a worker."""
    if hasattr(config, "workerinput"):
        basetemp = Path(config.option.basetemp)
        config.option.basetemp = str(basetemp.with_name(basetemp.name.removeprefix("popen-gw")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the wheels, or a machine with them, goes to one worker: it makes them once."""
    for item in items:
        of_machine = item.path.parent == ROOT / "tests" / "systemd"
        if of_machine or "wheels" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("wheels"))


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the user's environment decides; defaults lead into ``tmp_path``."""
    for name in list(os.environ):
        if name.startswith(("TALLYMARK_", "XDG_", "GIT_")) or name == "CLAUDE_CONFIG_DIR":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """Give the process back its umask: a command that runs in it may set its own."""
    before = os.umask(0)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Recorded transcripts of real agents, which are not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(NO_SHARED_DATA)
    return SHARED_DATA


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each distribution's sdist and wheel, built once."""
    from tests import wheels

    return {part: wheels.build(part, tmp_path_factory.mktemp("build")) for part in wheels.PARTS}


@pytest.fixture(scope="session")
def wheels(builds: dict[str, Path]) -> dict[str, Path]:
    """The wheel of each distribution."""
    return {part: next(dist.glob("*.whl")) for part, dist in builds.items()}


def _skip_allowed(reason: str) -> bool:
    if reason.startswith(PLATFORM_REASON):
        return True
    return reason == NO_SHARED_DATA and not SHARED_DATA.exists()


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI, turn a skip into a failure, unless its reason is one of those allowed."""
    if not IN_CI or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    where = report.longrepr
    text = where[2] if isinstance(where, tuple) else str(where)
    reason = text.removeprefix("Skipped: ")
    if not _skip_allowed(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report
