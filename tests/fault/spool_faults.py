"""Everything that can be wrong with a spool: exact counts, no crash, nothing of others touched."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.daemon import Daemon, running, wait_for
from tests.fault.outcome import Outcome
from tests.fault.spool_damage import SCENES
from tests.fault.spool_full import FULL_SCENES
from tests.fault.spool_scene import Scene
from tests.fault.spooling import Tally, journaled

ORPHANS = 500


def spool_faults(directory: Path, orphans: int = ORPHANS) -> Outcome:
    """Every scene, on one daemon; then a daemon that finds many spools at its start."""
    tally = Tally()
    keep: list[str] = []
    scenes = {**SCENES, **FULL_SCENES}
    with running(directory / "state", "--spool-dir", str(directory / "none")) as daemon:
        for name, play in scenes.items():
            wrong = len(tally.wrong)
            keep += play(Scene(directory / name, daemon, tally))
            tally.wrong[wrong:] = [f"{name}: {text}" for text in tally.wrong[wrong:]]
        scene = Scene(directory / "orphans", daemon, tally)
        left = [scene.leave(2) for _ in range(orphans)]
        keep += [name for each in left for name in each.events]
        tally.check("the daemon's end", daemon.stop(), 0)
    took = _start_beside(scene, sum(len(each.events) for each in left))
    if "Traceback" in daemon.log():
        tally.wrong.append("a traceback is in the daemon's log")
    tally.hold(journaled(directory / "state").stored, keep)
    return Outcome(
        "what can be wrong with a spool", len(scenes) + orphans, tally.lost, tally.doubled,
        len(tally.wrong),
        (f"{len(scenes)} scenes: {', '.join(scenes)}",
         f"{orphans} orphaned spools stored {took:.1f} s after the daemon was started",
         *tally.wrong),
    )  # fmt: skip


def _start_beside(scene: Scene, events: int) -> float:
    """Start the daemon on the scene's spools; seconds until all is stored."""
    daemon = Daemon(scene.daemon.state_dir, "--spool-dir", str(scene.spools))
    before = scene.before["stored"]
    try:
        begun = time.monotonic()
        daemon.start()
        wait_for("all events", lambda: daemon.ledger["stored"] >= before + events)
        took = time.monotonic() - begun
        wait_for("the spools' end", lambda: not os.listdir(scene.spools))
        scene.tally.check("health", [each.code for each in daemon.health().reasons], [])
        scene.tally.check("the daemon's end", daemon.stop(), 0)
    finally:
        daemon.kill()
    return took
