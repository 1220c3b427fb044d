"""The instrument that counts: what is lost or doubled shows as such."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.daemon import Daemon, running, wait_for
from tests.fault.accounts import Account, Findings, judge
from tests.fault.agents import accounts_of, crowd, pump_until
from tests.fault.raw_agent import BATCH_EVENTS, RawAgent


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("accounts") / "state") as found:
        yield found


@pytest.fixture(scope="module")
def account(daemon: Daemon) -> Account:
    """Of an agent that has three batches there, the last two with a repeated event."""
    agent = RawAgent("agent", "project", daemon.socket)
    for _ in range(3):
        agent.make()
    pump_until("acknowledgements", [agent], lambda: not agent.ahead)
    agent.disconnect()
    return accounts_of([agent])[0]


def found(daemon: Daemon, account: Account) -> tuple[int, int, int]:
    findings = Findings()
    judge(daemon, [account], findings, "here")
    assert len(findings.notes) > 0 or not (findings.lost or findings.doubled or findings.wrong)
    return findings.lost, findings.doubled, findings.wrong


def test_what_is_right_is_right(daemon: Daemon, account: Account) -> None:
    assert account.sent == account.acked == 3 * BATCH_EVENTS
    assert found(daemon, account) == (0, 0, 0)
    assert found(daemon, replace(account, acked=0, sent=99)) == (0, 0, 0)


def test_a_loss_shows_in_the_books_and_in_the_journal(daemon: Daemon, account: Account) -> None:
    promised = replace(account, acked=account.acked + 4, sent=account.sent + 4)
    assert found(daemon, promised) == (8, 0, 0)


def test_what_was_never_sent_shows(daemon: Daemon, account: Account) -> None:
    assert found(daemon, replace(account, acked=8, sent=8)) == (0, 8, 0)
    lost, doubled, wrong = found(daemon, replace(account, name="another"))
    assert lost > 0  # all of this one
    assert doubled == account.sent  # all of that one
    assert wrong == 1  # the ledger has what nobody is known to have sent


def test_agents_as_processes_keep_their_account(tmp_path: Path, daemon: Daemon) -> None:
    findings = Findings()
    with crowd(tmp_path, daemon.socket, 2, pace=0.001) as agents:
        wait_for("acknowledged events", lambda: all(a.acked for a in agents.accounts()))
        with agents.stopped() as first:
            assert agents.accounts() == first
        last = agents.finish(findings)
    assert findings == Findings()
    assert all(b.sent == b.acked >= a.acked > 0 for a, b in zip(first, last, strict=True))
