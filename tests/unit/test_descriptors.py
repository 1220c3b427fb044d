from __future__ import annotations

import resource

import pytest

from tallymarkd.descriptors import RESERVE, make_room

NEVER = resource.RLIM_INFINITY


class Limits:
    """The limit on open files, soft and hard, as the system keeps it."""

    def __init__(self, soft: int, hard: int, error: Exception | None = None) -> None:
        self.now = (soft, hard)
        self.error = error

    def get(self, kind: int) -> tuple[int, int]:
        assert kind == resource.RLIMIT_NOFILE
        return self.now

    def set(self, kind: int, limits: tuple[int, int]) -> None:
        if self.error is not None:
            raise self.error
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "found", "left"),
    [
        pytest.param(1024, 1_000_000, 1024, 1024 + RESERVE, id="raised"),
        pytest.param(4096, 4096, 1024, 4096, id="enough: never lowered"),
        pytest.param(256, NEVER, 1024, 1024 + RESERVE, id="no hard limit"),
        pytest.param(NEVER, NEVER, 1024, NEVER, id="no limit at all"),
        pytest.param(256, 1024, 1024 - RESERVE, 1024, id="as far as it goes"),
        pytest.param(RESERVE, RESERVE, 1, RESERVE, id="hardly anything"),
    ],
)
def test_the_limit_is_raised_as_far_as_connections_need_it(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    soft: int,
    hard: int,
    found: int,
    left: int,
) -> None:
    limits = Limits(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)

    assert make_room(1024) == found

    assert limits.now == (left, hard)
    assert ("cannot serve connections_max = 1024" in caplog.text) == (found < 1024)


@pytest.mark.parametrize("error", [ValueError("not allowed"), OSError(1, "not permitted")])
def test_a_limit_that_cannot_be_raised_leaves_fewer_connections(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    limits = Limits(256, NEVER, error)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)

    assert make_room(1024) == 256 - RESERVE
