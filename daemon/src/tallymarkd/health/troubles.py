"""Every reason that health can give: how grave it is, and what to do about it.

docs/OPERATIONS.md tells the same, at length; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from tallymark.protocol.messages import Reason


class Weight(IntEnum):
    """How grave a trouble is; the gravest decides."""

    NOTICE = 1
    """Events are taken and made durable; somebody should look all the same: degraded."""
    HOLDING = 2
    """No event is made durable at this time, clients keep theirs and send them again, and
    the daemon goes on by itself when the cause is gone: degraded."""
    FAILING = 3
    """Nothing can be made durable before somebody has done something: failing."""


class Trouble(NamedTuple):
    """One kind of trouble."""

    weight: Weight
    remedy: str


TROUBLES: Final[Mapping[str, Trouble]] = MappingProxyType(
    {
        # The commit path.
        "probe_failed": Trouble(
            Weight.FAILING, "look at the disk of the state directory and at the log"
        ),
        "disk_full": Trouble(
            Weight.HOLDING, "free space; the daemon goes on by itself, and clients send again"
        ),
        "commit_stuck": Trouble(
            Weight.HOLDING,
            "look at the disk of the state directory; clients keep what is not acknowledged, "
            "and a watchdog restarts the daemon if this goes on",
        ),
        "watchdog_late": Trouble(
            Weight.HOLDING,
            "look at the disk of the state directory; the service manager restarts the daemon "
            "if this goes on, and nothing acknowledged is lost",
        ),
        "commit_slow": Trouble(
            Weight.NOTICE,
            "look at what else writes to this disk; nothing is lost, but agents begin to spool",
        ),
        "loop_late": Trouble(
            Weight.NOTICE,
            "look at the load of the machine: the daemon does not get its share of the processor",
        ),
        "overloaded": Trouble(
            Weight.NOTICE,
            "agents send more than this disk takes; nothing is lost, they wait and spool; "
            "find out which with `tallymark`, or use a faster disk",
        ),
        # The disk and the files on it.
        "state_dir_gone": Trouble(
            Weight.FAILING,
            "bring it back (was it moved, removed or unmounted?) and restart the daemon; "
            "what is recorded until then may be lost",
        ),
        "state_dir_unwritable": Trouble(
            Weight.FAILING,
            "make it writable for the daemon's user (was the disk mounted again read-only after "
            "an error?): the daemon ends at the next file that it has to begin",
        ),
        "disk_low": Trouble(Weight.NOTICE, "free space, or lower history_bytes_max"),
        "save_failed": Trouble(
            Weight.NOTICE,
            "nothing is lost, the journal has it; make the directory writable and free space",
        ),
        "save_late": Trouble(
            Weight.NOTICE, "nothing is lost, the journal has it; look at the load of the disk"
        ),
        "history_held": Trouble(
            Weight.NOTICE,
            "see whether it still works, or has been stopped; as long as it runs, history grows "
            "beyond its limit",
        ),
        "state_file_changed": Trouble(
            Weight.NOTICE,
            "find the program that writes there and stop it: state files are the daemon's output "
            "only; this is told until the daemon restarts",
        ),
        "spool_damaged": Trouble(
            Weight.NOTICE,
            "each is named for the producer whose events it held; move it away when that is known",
        ),
        # What was lost.
        "events_lost": Trouble(
            Weight.NOTICE,
            "look at the disk; what is damaged is kept in quarantine/, and the account in "
            "recovery-history.json and in this report; `tallymark verify` tells how the files "
            "are now; this is told until the daemon restarts",
        ),
        "journal_damaged": Trouble(
            Weight.NOTICE,
            "look at the disk; `tallymark verify` tells how the files are now; this is told until "
            "the daemon restarts",
        ),
        "state_files_damaged": Trouble(
            Weight.NOTICE,
            "look at the disk; nothing is lost, they were made again from older generations and "
            "the journal; this is told until the daemon restarts",
        ),
        "events_dropped": Trouble(
            Weight.NOTICE,
            "look at the log of that agent. `queue_full`: neither the daemon nor the spool took "
            "anything for a while, see that the daemon runs and that the spool directory has "
            "room. `unencodable`, `too_large`, `not_an_event`: the agent records what cannot be "
            "stored",
        ),
        "ledger_differs": Trouble(
            Weight.NOTICE,
            "stop the daemon and run `tallymark verify`, which counts the journal anew; "
            "please report what it says",
        ),
        # Limits and settings.
        "connections_full": Trouble(
            Weight.NOTICE,
            "raise connections_max, or find out who holds them (ss -xp); agents that find no "
            "room spool and come again",
        ),
        "connections_limited": Trouble(
            Weight.NOTICE,
            "raise the limit on open files (LimitNOFILE= of the unit, or `ulimit -Hn`) and restart "
            "the daemon, or lower connections_max",
        ),
        "projects_full": Trouble(
            Weight.NOTICE,
            "raise projects_max; agents of new projects spool until then",
        ),
        "producers_full": Trouble(
            Weight.NOTICE,
            "raise producers_max, or lower mark_days_max; new agents spool until then",
        ),
        "reload_refused": Trouble(
            Weight.NOTICE,
            "correct the configuration (`tallymarkd --check-config` tells what is wrong) and "
            "reload again",
        ),
    }
)
"""By code. A code is for programs, and never changes its meaning."""


def reason(code: str, message: str) -> Reason:
    """A trouble of the table, with what is wrong this time."""
    return Reason(code=code, message=message, remedy=TROUBLES[code].remedy)
