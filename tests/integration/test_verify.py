"""verify and repair on what a real daemon leaves, and beside one that runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tallymark import Client
from tallymark.events import RunEnd, Usage
from tests.daemon import Daemon, running, tallymark, wait_for
from tests.daemon_parts import run_end
from tests.damaged_states import tree
from tests.unix_http import UnixHTTP

OPTIONS = (
    "--save-interval-seconds", "0.05",
    "--segment-bytes-max", "64KiB",
    "--segment-chunk-bytes", "16KiB",
)  # fmt: skip


def work(daemon: Daemon, name: str, project: str) -> None:
    """One agent's life: sessions, runs, usages, duplicates, mistakes."""
    with Client(project, socket=daemon.socket) as client:
        session_id = client.start_session(session_type="initializer")
        for number in range(30):
            with client.track_agent(name, ticket_key=f"T-{number}", session_id=session_id) as run:
                run.add_tokens(input_tokens=number, output_tokens=7)
                run.add_artifact(f"commit:{number}")
            client.emit(Usage(agent_name=name, input_tokens=3, dedupe_key=f"key-{number % 11}"))
            client.emit(RunEnd(agent_name=name, error_message="x" * 700, status="error"))
            client.emit(Usage(agent_name=name, input_tokens=-1))
        client.end_session(session_id, status="complete")
        client.flush(timeout=30)


def post(daemon: Daemon, project: str) -> None:
    """The same over HTTP: no producer, no seq."""
    connection = UnixHTTP(daemon.socket)
    try:
        body = "\n".join(json.dumps(run_end(number)) for number in range(5))
        for _ in range(2):
            headers = {"Content-Type": "application/x-ndjson"}
            connection.request("POST", f"/v1/events?project={project}", body, headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
    finally:
        connection.close()


def verified(root: Path, code: int) -> dict[str, Any]:
    """What verify says; it must end so, and change nothing."""
    before = tree(root)
    found = tallymark("verify", str(root), "--json")
    assert found.returncode == code, found
    assert "Traceback" not in found.stderr
    after = tree(root)
    changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    assert changed == []
    report: dict[str, Any] = json.loads(found.stdout) if found.stdout else {}
    return report


def test_what_a_daemon_leaves_is_whole_at_every_stop_and_kill(tmp_path: Path) -> None:
    root = tmp_path / "state"
    ledger: dict[str, Any] = {}
    for number, how in enumerate(("stop", "kill", "kill", "stop")):
        with running(root, *OPTIONS) as daemon:
            work(daemon, f"agent-{number}", "p")
            work(daemon, "coding", f"q-{number % 2}")
            post(daemon, "p")
            ledger = daemon.ledger
            if how == "stop":
                assert daemon.stop() == 0
            else:
                daemon.kill()

        report = verified(root, 0)

        assert report["verdict"] == ("whole" if how == "stop" else "unclean")
        assert report["findings"] == report["known"] == []
        assert report["journal"]["begins_after_lsn"] == 0
        for name in ("received", "stored", "duplicate", "rejected", "skipped", "lost"):
            assert report["events"][name] == ledger[name]
        agreed = [each["agrees"] for part in report["state_files"] for each in part["generations"]]
        assert agreed
        assert set(agreed) == {True}
        assert report["index"]["agrees"] is True
    assert len(report["journal"]["segments"]) > 2


def test_a_repair_after_a_kill_is_as_good_as_a_start(tmp_path: Path) -> None:
    root = tmp_path / "state"
    with running(root, *OPTIONS) as daemon:
        work(daemon, "coding", "p")
        ledger = daemon.ledger
        daemon.kill()

    done = tallymark("repair", str(root), "--json")

    assert done.returncode == 0, done
    assert done.stderr == ""
    report = verified(root, 0)
    assert report["verdict"] == "whole"
    assert report["ledger"]["stored"] == ledger["stored"]
    with running(root) as daemon:
        assert daemon.health().report["recovery"]["clean"] is True
        assert daemon.ledger == ledger
        assert daemon.stop() == 0


def test_beside_a_running_daemon_there_is_no_answer(tmp_path: Path) -> None:
    root = tmp_path / "state"
    with running(root, *OPTIONS) as daemon:
        work(daemon, "coding", "p")
        pid = daemon.health().report["pid"]
        for command in ("verify", "repair"):
            found = tallymark(command, str(root))
            assert (found.returncode, found.stdout) == (2, "")
            assert found.stderr.startswith(
                f"tallymark: cannot {command} {root}: tallymarkd runs on it (pid {pid}); "
                f"stop it first: `kill {pid}`"
            )
            assert found.stderr.count("\n") == 1
        # A stopped process holds its lock as well.
        daemon.signal(signal.SIGSTOP)
        silent = tallymark("verify", str(root), "--json")
        assert silent.returncode == 2
        assert "`systemctl --user stop tallymarkd.socket`" in json.loads(silent.stdout)["error"]
        daemon.signal(signal.SIGCONT)
        wait_for("a daemon that is well", lambda: daemon.health().status == "ok")
        assert daemon.stop() == 0
    assert verified(root, 0)["verdict"] == "whole"


def test_colour_and_progress_stay_out_of_a_pipe(tmp_path: Path) -> None:
    root = tmp_path / "state"
    with running(root) as daemon:
        work(daemon, "coding", "p")
        assert daemon.stop() == 0
    for env in ({}, {"NO_COLOR": "1"}):
        found = tallymark("verify", str(root), **env)
        assert (found.returncode, found.stderr) == (0, "")
        assert "\x1b" not in found.stdout
