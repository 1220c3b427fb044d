"""When events that cannot be delivered go to disk, and when the sender looks again."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tallymark.backlog import Backlog
from tallymark.conversation import Conversation
from tallymark.events import Usage
from tallymark.intake import Intake
from tallymark.overflow import AWAKE_SECONDS, LOOK_SECONDS, SPILL_SECONDS, Overflow
from tallymark.protocol.messages import Nack
from tallymark.settings import Settings
from tallymark.trouble import Trouble

SETTINGS = Settings(
    spool_after_seconds=1.0, welcome_timeout_seconds=2.0, ack_timeout_seconds=10.0
)  # fmt: skip


class Rig:
    """The rule over a backlog that only counts how often it was told to spill."""

    def __init__(self) -> None:
        self.now = 100.0
        self.spills = 0
        self.backlog = SimpleNamespace(
            spill_due=True, somebody_waits=False, in_flight=False, spill=self._spill
        )
        self.intake = Intake(10, lambda: None)
        self.trouble = Trouble(SETTINGS, lambda: self.now, lambda: 1.0)
        self.overflow = Overflow(
            cast(Backlog, self.backlog), self.intake, self.trouble, SETTINGS, lambda: self.now
        )

    def _spill(self) -> None:
        self.spills += 1

    def look(self, talk: Any = None) -> int:
        self.overflow.spill(self.now, cast(Conversation | None, talk))
        return self.spills

    def due(self, talk: Any = None) -> float:
        return self.overflow.due(cast(Conversation | None, talk))


def talk(*, opened: bool, ack_by: float = 0.0, welcome_by: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(open=opened, ack_by=ack_by, welcome_by=welcome_by)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_while_all_is_well_nothing_goes_to_disk(rig: Rig) -> None:
    rig.backlog.somebody_waits = True
    for conversation in (None, talk(opened=True)):
        assert rig.look(conversation) == 0
        assert rig.due(conversation) == math.inf


def test_out_of_reach_for_a_while(rig: Rig) -> None:
    rig.trouble.lost("away")
    assert rig.look() == 0
    assert rig.due() == 101.0
    rig.now = 101.0
    assert rig.look() == 1
    # The next one waits for others to come with it.
    assert rig.look() == 1
    assert rig.due() == 101.0 + SPILL_SECONDS
    rig.now += SPILL_SECONDS
    assert rig.look() == 2
    # Also while it is tried again.
    rig.now += SPILL_SECONDS
    assert rig.look(talk(opened=False, welcome_by=200.0)) == 3


def test_at_once_when_somebody_waits_or_the_queue_fills(rig: Rig) -> None:
    rig.trouble.lost("away")
    rig.backlog.somebody_waits = True
    assert rig.look() == 1
    rig.backlog.somebody_waits = False
    rig.now += SPILL_SECONDS
    for _ in range(4):
        rig.intake.put(Usage())
    assert rig.look() == 1
    assert rig.due() == rig.now + LOOK_SECONDS
    rig.intake.put(Usage())
    assert rig.look() == 2


def test_no_welcome_no_ack_or_a_long_hold(rig: Rig) -> None:
    rig.backlog.somebody_waits = True
    waiting = talk(opened=False, welcome_by=102.0)
    assert (rig.look(waiting), rig.due(waiting)) == (0, 101.0)
    rig.backlog.in_flight = True
    stuck = talk(opened=True, ack_by=110.0)
    assert (rig.look(stuck), rig.due(stuck)) == (0, 101.0)
    rig.now = 101.0
    assert rig.look(stuck) == 1
    rig.now = 103.0
    rig.trouble.hold(Path("s.sock"), Nack(code="disk_full", seq=1, message="full"))
    assert rig.look(stuck) == 1
    rig.now = 104.0
    assert rig.look(stuck) == 2


def test_nothing_new_is_no_cause(rig: Rig) -> None:
    rig.trouble.lost("away")
    rig.backlog.spill_due = False
    rig.now += 100
    assert rig.look() == 0
    assert rig.due() == math.inf


def test_after_an_event_it_stays_awake_for_a_while(rig: Rig) -> None:
    rig.trouble.lost("away")
    rig.due()
    assert not rig.overflow.keeps_awake
    rig.intake.put(Usage())
    rig.due()
    rig.intake.queue.clear()
    rig.now += AWAKE_SECONDS - 0.01
    rig.due()
    assert rig.overflow.keeps_awake
    rig.now += 0.01
    assert not rig.overflow.keeps_awake
