"""Whether a user's services can have namespaces of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

from tallymarkd.service.machine import Machine, ServiceError
from tallymarkd.service.managers import failed
from tallymarkd.service.render import sandbox_settings

NONE_TO_BE_HAD: Final = {"217", "218", "225", "226"}
"""How systemd.exec(5) ends a process that it could not give what needs them: USER,
CAPABILITIES (which may be taken away only inside of one), NETWORK, NAMESPACE."""


def work(machine: Machine, systemctl: Callable[..., Sequence[str]]) -> bool:
    """Seen by starting a service with the sandbox of ours.

    Raises ``ServiceError`` when that fails for another reason: it tells nothing then.
    """
    unit = f"tallymark-tries-its-sandbox-{os.getpid()}.service"
    wanted = [f"--property={line}" for line in ("Type=oneshot", *sandbox_settings())]
    # Not with --wait, which needs a bus of the session.
    command = ("systemd-run", "--user", "--quiet", f"--unit={unit}", *wanted, "true")
    done = machine.run(command)
    if done.code == 0:
        return True
    status = machine.run(systemctl("show", "--property=ExecMainStatus", "--value", unit)).out
    machine.run(systemctl("reset-failed", unit))
    if status.strip() in NONE_TO_BE_HAD:
        return False
    raise ServiceError(
        "cannot see whether services can have namespaces here: "
        f"{failed(command[:3], done)}; see journalctl --user-unit {unit}, and try again"
    )
