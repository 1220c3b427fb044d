from __future__ import annotations

from tallymarkd.server.desk import FramePool

KIB = 1024


class Owners:
    """Asks a pool for memory and keeps who was granted it later."""

    def __init__(self, bytes_max: int) -> None:
        self.pool = FramePool(bytes_max)
        self.granted: list[str] = []

    def reserve(self, owner: str, count: int) -> bool:
        return self.pool.reserve(owner, count, lambda: self.granted.append(owner))


def test_there_is_memory_until_it_is_used_up() -> None:
    owners = Owners(1000)

    assert owners.reserve("a", 600)
    assert owners.reserve("b", 400)
    assert not owners.reserve("c", 1)
    assert owners.granted == []


def test_who_holds_enough_needs_no_more() -> None:
    owners = Owners(1000)
    assert owners.reserve("a", 600)

    assert owners.reserve("a", 600)
    assert owners.reserve("a", 100)

    assert owners.reserve("b", 400)


def test_released_memory_goes_to_who_waits() -> None:
    owners = Owners(1000)
    owners.reserve("a", 600)
    owners.reserve("b", 400)
    owners.reserve("c", 500)

    owners.pool.release("b")
    assert owners.granted == []

    owners.pool.release("a")
    assert owners.granted == ["c"]
    assert owners.reserve("c", 500)
    assert owners.reserve("d", 500)


def test_first_come_first_served() -> None:
    """A small one does not pass a large one, which would else wait for ever."""
    owners = Owners(1000)
    owners.reserve("a", 600)
    owners.reserve("large", 900)

    assert not owners.reserve("small", 100)
    assert owners.granted == []

    owners.pool.release("a")
    assert owners.granted == ["large", "small"]


def test_who_leaves_the_queue_makes_room_for_the_next() -> None:
    owners = Owners(1000)
    owners.reserve("a", 600)
    owners.reserve("large", 900)
    owners.reserve("small", 100)

    owners.pool.release("large")

    assert owners.granted == ["small"]


def test_asking_again_does_not_lose_the_place() -> None:
    owners = Owners(1000)
    owners.reserve("a", 1000)
    owners.reserve("b", 600)
    owners.reserve("c", 600)

    assert not owners.reserve("b", 500)
    owners.pool.release("a")

    assert owners.granted == ["b"]


def test_releasing_what_was_never_held_changes_nothing() -> None:
    owners = Owners(1000)
    owners.pool.release("nobody")
    owners.reserve("a", 1000)

    owners.pool.release("a")
    owners.pool.release("a")

    assert owners.reserve("b", 1000)
    assert not owners.reserve("c", 1)


def test_many_owners_come_and_go_and_all_memory_is_there_again() -> None:
    owners = Owners(10 * KIB)
    for number in range(200):
        owners.reserve(str(number), (number % 7 + 1) * KIB)
    for number in range(200):
        owners.pool.release(str(number))

    assert owners.reserve("all", 10 * KIB)
