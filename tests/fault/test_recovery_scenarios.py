"""What can befall a state directory that lies still, and what a start makes of it.

Each scenario is recovered as the daemon does it, and once more: nothing that was
acknowledged is missing without being told, it is told once, and ``--strict``
refuses until it was told, with everything left as it was.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallymark import Client
from tallymark.errors import StorageError
from tallymark.events import RunEnd
from tallymarkd.core.recovery_report import RecoveryHistory, RecoveryReport
from tests.daemon import Daemon, running, tallymark, wait_for
from tests.daemon_parts import PRODUCERS, image
from tests.damaged_states import (
    CASES,
    Case,
    broken_states,
    change,
    edited_state,
    long_history,
    rot,
    segments,
    state_file,
    tree,
)
from tests.state_dirs import Core

LOSING = {name: case for name, case in CASES.items() if case.lost and not case.unread}
DERIVED = ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm")


class Made:
    """A directory to be copied, and what its daemon knew at its end."""

    def __init__(self, root: Path, *, stop: bool) -> None:
        self.root = root
        self.image = image(long_history(root, stop=stop).books)

    def copy(self, to: Path) -> Path:
        shutil.copytree(self.root, to)
        return to


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("stopped") / "state", stop=True)


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("crashed") / "state", stop=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """What people see of the projects."""
    return {name: board for name, (board, *_) in found["projects"].items()}


def runs(found: dict[str, Any]) -> set[str]:
    return {run["event_id"] for board in figures(found).values() for run in board["events"]}


def history(root: Path) -> list[RecoveryReport]:
    path = root / "recovery-history.json"
    if not path.exists():
        return []
    return msgspec.json.decode(path.read_bytes(), type=RecoveryHistory).reports


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("unclean", [False, True], ids=["clean stop", "unclean stop"])
def test_nothing_is_missing_in_silence_and_all_is_told_once(
    stopped: Made, crashed: Made, root: Path, case: Case, unclean: bool
) -> None:
    made = crashed if unclean else stopped
    case.damage(made.copy(root))

    core = Core(root)
    after, report = image(core.books), core.report

    assert runs(after) <= runs(made.image)
    if figures(after) != figures(made.image):
        assert report.new_losses > 0
    assert bool(report.new_losses) >= (case.missed or (unclean and case.lost and not runs(after)))
    told = bool(report.new_losses or report.new_damage)
    assert [each.at for each in history(root)] == ([report.at] if told else [])
    assert json.loads((root / "recovery.json").read_bytes())["at"] == report.at
    assert len(report.losses) == min(report.new_losses, 100)
    core.save()
    before = image(core.books)
    core.stop()

    core = Core(root)

    assert (core.report.new_losses, core.report.new_damage) == (0, 0)
    assert figures(image(core.books)) == figures(before)
    assert image(core.books)["server"]["ledger"] == before["server"]["ledger"]
    assert [each.at for each in history(root)] == ([report.at] if told else [])
    core.stop()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_destroyed_state_files_cost_nothing(crashed: Made, root: Path, count: int) -> None:
    broken_states(count)(crashed.copy(root))

    core = Core(root)

    assert image(core.books)["projects"] == crashed.image["projects"]
    assert core.report.new_losses == 0
    assert len(core.report.quarantined) == count


def test_rot_behind_a_destroyed_state_file_is_told(stopped: Made, root: Path) -> None:
    """Either alone would cost nothing: the state has what rotted, the journal what
    the state file had. Together they cost a batch, and the ledger had counted it."""
    stopped.copy(root)
    broken_states(1)(root)
    rot(-1, -3)(root)

    core = Core(root)

    assert figures(image(core.books)) != figures(stopped.image)
    assert core.report.new_losses == 1
    (loss,) = core.report.losses
    assert loss.producer in PRODUCERS
    assert (loss.events, loss.from_seq) == (4, 30)
    assert core.books.server.ledger.lost == 4
    core.save()
    core.stop()
    assert Core(root).report.new_losses == 0


def test_a_journal_that_is_gone_is_told_by_name(crashed: Made, root: Path) -> None:
    """The daemon had died with two batches in the journal alone."""
    for path in segments(crashed.copy(root)):
        path.unlink()
    newest = state_file(root, "other")
    newest.unlink()

    core = Core(root)

    assert core.report.new_losses == 1
    assert "other" in core.report.losses[0].reason
    core.save()
    core.stop()
    assert Core(root).report.new_losses == 0


def test_a_project_without_files_and_records_is_told_once(stopped: Made, root: Path) -> None:
    stopped.copy(root)
    for path in segments(root)[:-1]:
        path.unlink()
    shutil.rmtree(state_file(root, "other").parent)

    core = Core(root)

    assert core.report.new_losses == 1
    assert "other" in core.report.losses[0].reason
    # From the first number that the project had, as the server's file knows.
    assert core.report.losses[0].from_lsn == stopped.image["server"]["first_lsn"]["other"]
    core.save()
    core.stop()
    assert Core(root).report.new_losses == 0


@pytest.mark.parametrize("case", LOSING.values(), ids=LOSING)
@pytest.mark.parametrize("unclean", [False, True], ids=["clean stop", "unclean stop"])
def test_strict_refuses_until_it_was_told_and_leaves_all_as_it_was(
    stopped: Made, crashed: Made, root: Path, case: Case, unclean: bool
) -> None:
    case.damage((crashed if unclean else stopped).copy(root))
    before = content(root)

    messages = []
    for _ in range(2):
        with pytest.raises(StorageError, match="cannot start with --strict") as caught:
            Core(root, strict=True)
        messages.append(str(caught.value))
        assert content(root) == before
    assert messages[0] == messages[1]

    core = Core(root)
    assert core.report.new_losses or core.report.new_damage
    core.save()
    core.stop()
    Core(root, strict=True).stop()


def content(root: Path) -> dict[str, Any]:
    """Everything that is no index."""
    return {
        name: entry for name, entry in tree(root).items() if name not in DERIVED and name != "."
    }


@pytest.mark.parametrize("name", sorted(CASES.keys() - LOSING.keys()))
def test_strict_starts_where_nothing_was_lost(stopped: Made, root: Path, name: str) -> None:
    CASES[name].damage(stopped.copy(root))

    assert Core(root, strict=True).report.new_losses == 0


def test_what_a_client_announced_as_lost_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """A skip that no state file had seen when the daemon was killed."""
    root = tmp_path / "state"
    options = ("--save-interval-seconds", "3600")
    with running(root, *options) as daemon:
        with Client("p", socket=daemon.socket, queue_events_max=1) as client:
            for number in range(200):
                client.emit(RunEnd(agent_name=f"a-{number}"))
            client.flush(timeout=30)
        skipped = wait_for("a skip", lambda: daemon.ledger["skipped"])
        daemon.kill()
    with running(root, "--strict") as daemon:
        health = daemon.health()
        assert health.report["ledger"]["skipped"] == skipped
        # What was told before the crash, and is replayed, is told once more; not as a loss.
        assert [reason.code for reason in health.reasons] == ["events_dropped"]
        assert daemon.stop() == 0


# The real daemon.


def record(daemon: Daemon, count: int = 3) -> None:
    with Client("p", socket=daemon.socket) as client:
        for number in range(count):
            client.emit(RunEnd(agent_name=f"<{number}>"), durable=True)


def test_the_daemon_names_what_was_lost_and_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "state"
    with running(root, "--save-interval-seconds", "3600") as daemon:
        record(daemon)
        daemon.kill()
    change(segments(root)[0], lambda data: data.replace(b"<1>", b"<!>"))

    strict = Daemon(root, "--strict")
    for _ in range(2):
        strict.spawn()
        assert strict.process is not None
        assert strict.process.wait(60) == 1
    assert strict.log().count("cannot start with --strict") == 2
    assert "Traceback" not in strict.log()

    with running(root) as daemon:
        health = daemon.health()
        assert health.status == "degraded"
        (reason,) = health.reasons
        assert reason.code == "events_lost"
        assert "1 event of producer " in reason.message
        assert "(seq 2)" in reason.message
        assert reason.remedy
        assert health.report["recovery"]["new_losses"] == 1
        assert health.report["recovery"]["losses"][0]["from_seq"] == 2
        shown = tallymark("health", "--socket", str(daemon.socket))
        assert shown.returncode == 1
        assert "events_lost: " in shown.stdout
        assert "1 event of producer " in shown.stdout
        assert "lost: 1 event of producer " in daemon.log()
        record(daemon, 1)
        assert daemon.ledger["stored"] == 3
        assert daemon.stop() == 0

    with running(root, "--strict") as daemon:
        health = daemon.health()
        assert (health.status, health.reasons) == ("ok", [])
        assert health.report["ledger"]["losses"][0]["from_seq"] == 2
    assert [each.new_losses for each in history(root)] == [1]
    for name in ("recovery.json", "recovery-history.json"):
        assert (root / name).stat().st_mode & 0o777 == 0o600


def test_a_loss_is_told_once_also_when_nothing_is_recorded_after(tmp_path: Path) -> None:
    root = tmp_path / "state"
    with running(root, "--save-interval-seconds", "3600") as daemon:
        record(daemon, 1)
        # The goodbye of its client, or a mark, proves that it had been durable.
        wait_for("a proof", lambda: daemon.health().report["durable_lsn"] > 1)
        daemon.kill()
    change(segments(root)[0], lambda data: data.replace(b"<0>", b"<!>"))
    with running(root) as daemon:
        assert [reason.code for reason in daemon.health().reasons] == ["events_lost"]
        assert daemon.stop() == 0

    with running(root) as daemon:
        assert daemon.health().status == "ok"
        assert daemon.ledger["lost"] == 1


def test_a_state_file_edited_while_the_daemon_runs_is_kept_aside(tmp_path: Path) -> None:
    root = tmp_path / "state"
    with running(root, "--save-interval-seconds", "0.05") as daemon:
        record(daemon, 1)
        path = wait_for(
            "a state file", lambda: next(root.glob("projects/*/.agent_metrics.json"), None)
        )
        wait_for("server.json", (root / "server.json").exists)
        path.write_bytes(path.read_bytes().replace(b'"total_tokens":', b'"total_tokens": 9'))
        theirs = path.read_bytes()
        record(daemon, 1)
        health = wait_for("a degraded daemon", lambda: degraded(daemon))
        (reason,) = health.reasons
        assert reason.code == "state_file_changed"
        assert str(path) in reason.message
        (kept,) = (root / "quarantine").iterdir()
        assert kept.read_bytes() == theirs
        assert str(kept) in reason.message
        assert "state_file_changed" in tallymark("health", "--socket", str(daemon.socket)).stdout
        assert daemon.stop() == 0
    assert b'"total_tokens": 9' not in path.read_bytes()
    with running(root) as daemon:
        assert daemon.health().status == "ok"
        assert daemon.ledger["stored"] == 2


def degraded(daemon: Daemon) -> Any:
    health = daemon.health()
    return health if health.status == "degraded" else None


def test_a_state_file_edited_while_it_lay_still_is_kept_aside(stopped: Made, root: Path) -> None:
    edited_state(stopped.copy(root))
    theirs = state_file(root).read_bytes()

    core = Core(root)

    assert image(core.books)["projects"] == stopped.image["projects"]
    (name,) = core.report.quarantined
    assert (root / "quarantine" / name).read_bytes() == theirs
    core.save()
    assert state_file(root).exists()
