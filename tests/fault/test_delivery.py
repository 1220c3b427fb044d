"""The ordeals of delivery, scaled down; ``make torture`` runs them in full."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.fault.client_kills import client_kills
from tests.fault.daemon_down import daemon_down
from tests.fault.daemon_stopped import daemon_stopped
from tests.fault.outcome import Outcome
from tests.fault.proxied import proxied
from tests.fault.spool_faults import spool_faults

QUICK = {
    "daemon-down": partial(daemon_down, agents=3, events=300),
    "daemon-stopped": partial(daemon_stopped, seconds=3.0),
    "client-kills": partial(client_kills, kills=10),
    "proxy": partial(proxied, batches=300),
    "spool-faults": partial(spool_faults, orphans=20),
}


NEEDS_ROOT = ("spool-faults",)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_lost_or_doubled(tmp_path: Path, name: str) -> None:
    if name in NEEDS_ROOT and os.geteuid() != 0:
        pytest.skip("only root may mount file systems and give files away")
    if name == "daemon-stopped" and shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    outcome = QUICK[name](tmp_path)
    assert outcome.passed, "\n".join(outcome.lines())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "ordeal", [daemon_down, daemon_stopped, client_kills, proxied, spool_faults]
)
def test_in_full(tmp_path: Path, ordeal: Callable[[Path], Outcome]) -> None:
    outcome = ordeal(tmp_path)
    assert outcome.passed, "\n".join(outcome.lines())
