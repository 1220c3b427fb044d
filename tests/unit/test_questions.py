"""Questions: what the daemon's answers become, and what is no answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tallymark import questions
from tallymark.errors import DeliveryError, ProtocolError
from tallymark.protocol.messages import HealthReport, Reason
from tests.fake_daemon import FakeDaemon

STATE = (
    b'{"version":1,"project_name":"p","created_at":"2026-01-02T03:04:05Z",'
    b'"updated_at":"2026-01-02T03:04:06Z","total_tokens":30,'
    b'"agents":{"coding":{"agent_name":"coding","total_invocations":2}},'
    b'"tallymark":{"lsn":5}}'
)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "s.sock") as running:
        yield running


def test_a_state(daemon: FakeDaemon) -> None:
    daemon.replies = {"state": [STATE[:50], STATE[50:]]}
    state = questions.ask_state([daemon.path], "p")
    assert (state.project_name, state.total_tokens) == ("p", 30)
    assert state.agents["coding"].total_invocations == 2


def test_projects(daemon: FakeDaemon) -> None:
    daemon.replies = {"projects": [b'[{"project_name":"p","runs":3}]']}
    assert questions.ask_projects([daemon.path]) == [{"project_name": "p", "runs": 3}]


def test_health(daemon: FakeDaemon) -> None:
    reason = Reason(code="disk_low", message="2 % free", remedy="free some")
    daemon.health = HealthReport(id=0, status="degraded", reasons=[reason])
    assert questions.ask_health([daemon.path], deep=True) == HealthReport(
        id=1, status="degraded", reasons=[reason]
    )


def test_the_daemons_own_words_when_it_has_no_answer(daemon: FakeDaemon) -> None:
    daemon.reply_error = "no project 'p'"
    with pytest.raises(DeliveryError, match="cannot read state from tallymarkd: no project 'p'"):
        questions.ask_state([daemon.path], "p")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"project_name":5}', b"\xff"])
def test_a_body_that_is_no_state(daemon: FakeDaemon, body: bytes) -> None:
    daemon.replies = {"state": [body]}
    with pytest.raises(ProtocolError, match="cannot read the daemon's state"):
        questions.ask_state([daemon.path], "p")
