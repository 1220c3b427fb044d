"""``make torture``: every ordeal in turn, one line each: what, tried, lost, doubled.

``python -m tests.fault.torture [NAME …]`` runs those whose name contains one of
the words. Exits 1 when anything was lost, doubled or wrong, or nothing was tried.
Some ordeals mount file systems: they need root.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.fault import eio, enospc, lying_fsync, power_cut, races, sigkill
from tests.fault.client_kills import client_kills
from tests.fault.crashes import crash_states
from tests.fault.daemon_down import daemon_down
from tests.fault.daemon_stopped import daemon_stopped
from tests.fault.flips import flips, flips_after_kill
from tests.fault.mutation import mutation_gate
from tests.fault.outcome import Ordeal, Outcome
from tests.fault.proxied import proxied
from tests.fault.spool_faults import spool_faults
from tests.fault.state_files import state_files
from tests.fault.weakness import through_daemon, through_store

ORDEALS: Mapping[str, Ordeal] = {
    "crash-states": crash_states,
    "mutants": mutation_gate,
    "daemon-down": daemon_down,
    "daemon-stopped": daemon_stopped,
    "client-kills": client_kills,
    "proxy": proxied,
    "spool-faults": spool_faults,
    "flips": flips,
    "flips-after-kill": flips_after_kill,
    "state-files": state_files,
    "weakness-store": through_store,
    "weakness-daemon": through_daemon,
    "sigkill-every-call": sigkill.sweep,
    "sigkill-random": sigkill.storm,
    "eio": eio.ordeal,
    "lying-fsync": lying_fsync.ordeal,
    "enospc": enospc.ordeal,
    "power-cut": power_cut.ordeal,
    "races": races.ordeal,
}


def endure(name: str, ordeal: Ordeal) -> Outcome:
    """One ordeal in a directory of its own; what it raises is a failure of it."""
    with tempfile.TemporaryDirectory(prefix="tallymark-torture-") as directory:
        # Defaults lead there, too: an agent's spool among them.
        os.environ["XDG_STATE_HOME"] = directory
        try:
            return ordeal(Path(directory))
        except Exception:  # noqa: BLE001 - told in its line; the others have their turn
            traceback.print_exc()
            return Outcome(name, 1, wrong=1, notes=("it raised: the traceback is above",))


def main(words: Sequence[str]) -> int:
    """Run the ordeals; 0 when all passed."""
    chosen = {
        name: ordeal
        for name, ordeal in ORDEALS.items()
        if not words or any(word in name for word in words)
    }
    if not chosen:
        print(f"no ordeal is named so; there are: {', '.join(ORDEALS)}", file=sys.stderr)
        return 2
    # What clients say of their broken surroundings is not the account.
    logging.getLogger("tallymark").addHandler(logging.NullHandler())
    failed = 0
    for name, ordeal in chosen.items():
        begun = time.monotonic()
        outcome = endure(name, ordeal)
        failed += not outcome.passed
        print("\n".join(outcome.lines()), flush=True)
        print(f"        {name}: {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
