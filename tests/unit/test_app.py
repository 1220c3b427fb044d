from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tallymarkd import app
from tallymarkd.core.holds import Held, Holds
from tests.daemon_parts import SERVER_ID


class Rig:
    """Answers over a journal that is durable through 41, and what they have said."""

    def __init__(self) -> None:
        self.holds = Holds(lambda: None)
        self.said: list[tuple[bytes, str]] = []
        self.journal = SimpleNamespace(durable_lsn=41)
        server = SimpleNamespace(server_id=SERVER_ID)
        engine = SimpleNamespace(books=SimpleNamespace(server=server))
        self.answers = app._Answers(
            cast(Any, None), cast(Any, engine), cast(Any, SimpleNamespace(holds=self.holds)),
            cast(Any, self.journal), Path("/var/lib/tallymark"),
        )  # fmt: skip

    def hold(self, uid: int) -> Any:
        return self.answers.hold(uid, lambda body, error: self.said.append((body, error)))


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(app, "own_uid", lambda: 1000)
    return Rig()


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_daemons_user_and_root_may_hold_history(rig: Rig, uid: int) -> None:
    release = rig.hold(uid)

    assert rig.holds
    ((body, error),) = rig.said
    assert error == ""
    held = msgspec.json.decode(body, type=Held)
    assert (held.durable_lsn, held.server_id) == (41, SERVER_ID)
    assert held.state_dir == "/var/lib/tallymark"
    release()
    assert not rig.holds


def test_nobody_else_may(rig: Rig) -> None:
    """Who cannot read the files could only make the disk full."""
    release = rig.hold(1001)

    assert not rig.holds
    assert rig.said == [
        (b"", "cannot hold history: only the daemon's own user and root may")
    ]  # fmt: skip
    release()


def test_the_number_is_that_of_the_moment_when_nothing_is_retired_any_more(rig: Rig) -> None:
    rig.holds.begin()
    rig.hold(0)
    assert rig.said == []
    rig.journal.durable_lsn = 50

    rig.holds.end()

    assert msgspec.json.decode(rig.said[0][0], type=Held).durable_lsn == 50
