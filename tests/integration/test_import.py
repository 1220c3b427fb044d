"""Transcripts through the command line, the daemon and its files, and back out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.daemon import Daemon, tallymark

FIXTURE = ROOT / "tests" / "fixtures" / "claude-code"

REAL_SESSIONS = {  # input (with cache), output: the right-hand figures of the data's README
    "258c7280-ae70-4798-800f-63464d01a85d": (198 + 14_972_534 + 394_137, 38_908),
    "491e126e-1e71-469c-ade2-fcc8af567c74": (1_576 + 427_286 + 25_842, 1_586),
    "4d5611e5-241a-462a-8d15-5122611a9569": (233 + 12_387_553 + 559_475, 28_899),
    "d6e0bada-1959-4eec-a9d2-0bfade768d8f": (54 + 88_231 + 17_696, 212),
}


def import_from(daemon: Daemon, source: Path, project: str) -> dict[str, Any]:
    """Run the import; gives what it printed."""
    found = tallymark("--socket", str(daemon.socket), "import", "claude-code", str(source),
                      "--project", project, "--json")  # fmt: skip
    assert found.returncode == 0, found.stderr
    printed: dict[str, Any] = json.loads(found.stdout)
    return printed


def dump(daemon: Daemon, project: str) -> dict[str, Any]:
    """The project's state, as the command line prints it."""
    found = tallymark("--socket", str(daemon.socket), "dump", "--project", project)
    state: dict[str, Any] = json.loads(found.stdout)
    return state


def test_recorded_sessions_give_the_figures_that_are_known_of_them(
    daemon: Daemon, shared_data: Path
) -> None:
    first = import_from(daemon, shared_data, "spotter")
    state = dump(daemon, "spotter")

    assert first["total"]["responses"] == 324
    assert state["output_tokens"] == first["total"]["output_tokens"] == 69_605
    assert state["input_tokens"] == first["total"]["input_tokens"] == 28_874_815
    assert state["cache_read_tokens"] == 27_875_604
    assert state["cache_write_tokens"] == 997_150
    sessions = {s["session_id"]: (s["input_tokens"], s["output_tokens"]) for s in state["sessions"]}
    assert sessions == REAL_SESSIONS
    assert set(state["agents"]) == {"claude-code", "Explore", "claude-code-guide", "compact"}
    assert state["unpriced_usages"] == 0
    assert state["total_cost_usd"] > 0

    second = import_from(daemon, shared_data, "spotter")

    assert second["events"]["stored"] == 0
    assert second["events"]["already_known"] == first["events"]["stored"]
    assert {**dump(daemon, "spotter"), "updated_at": ""} == {**state, "updated_at": ""}


def test_the_synthetic_sessions_count_once_also_after_a_restart(daemon: Daemon) -> None:
    first = import_from(daemon, FIXTURE, "p")
    daemon.kill()
    daemon.start()
    second = import_from(daemon, FIXTURE, "p")

    assert first["events"]["stored"] > 0
    assert (second["events"]["stored"], second["events"]["already_known"]) == (
        0,
        first["events"]["stored"],
    )
    assert dump(daemon, "p")["output_tokens"] == first["total"]["output_tokens"]
