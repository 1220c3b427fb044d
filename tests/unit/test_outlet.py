from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tallymarkd.server.outlet import Outlet
from tests.conversation_parts import FakeTransport
from tests.daemon_parts import until

SHORT = 0.005


class Way:
    """An outlet over a fake transport, and when it looks at it."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.outlet = Outlet(self.transport, lambda: SHORT)

    def write(self, count: int) -> None:
        self.transport.buffered_bytes += count
        self.outlet.write(bytes(count))

    async def pass_time(self) -> None:
        """Longer than the patience."""
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * SHORT, over.set)
        await over.wait()


def run(test: Callable[[Way], Any]) -> None:
    async def main() -> None:
        await test(Way())

    asyncio.run(main())


def test_who_takes_nothing_is_cut_off() -> None:
    async def test(way: Way) -> None:
        way.write(100)
        await way.pass_time()
        assert not way.transport.aborted  # nobody has asked for it yet

        way.outlet.watch()
        await until(lambda: way.transport.aborted, "the end")

    run(test)


def test_who_takes_something_gets_as_much_time_again() -> None:
    async def test(way: Way) -> None:
        way.write(100)
        way.outlet.watch()
        looks = 0

        def look() -> int:
            # More is written than was taken: what counts is that some was taken.
            nonlocal looks
            looks += 1
            way.write(20)
            way.transport.buffered_bytes -= 10
            return way.transport.buffered_bytes

        way.transport.get_write_buffer_size = look  # type: ignore[method-assign]
        await until(lambda: looks > 10, "some looks")
        assert not way.transport.aborted

        way.transport.get_write_buffer_size = lambda: 500  # type: ignore[method-assign]
        await until(lambda: way.transport.aborted, "the end")

    run(test)


def test_who_has_taken_all_or_may_take_his_time_is_left_alone() -> None:
    async def test(way: Way) -> None:
        way.write(100)
        way.outlet.watch()
        way.transport.buffered_bytes = 0
        await way.pass_time()
        way.write(100)
        way.outlet.watch()
        way.outlet.unwatch()
        await way.pass_time()

        assert not way.transport.aborted

    run(test)


def test_a_close_waits_for_who_reads_and_for_nobody_else() -> None:
    async def test(way: Way) -> None:
        way.write(100)
        way.outlet.close()
        assert (way.transport.closed, way.transport.aborted) == (True, False)

        await until(lambda: way.transport.aborted, "the end")

    run(test)


def test_a_close_again_gives_no_more_time_but_may_give_less() -> None:
    async def test(way: Way) -> None:
        way.write(100)
        way.outlet.close(3600.0)
        way.outlet.close()
        await way.pass_time()
        assert not way.transport.aborted

        way.outlet.close(SHORT)
        await until(lambda: way.transport.aborted, "the end")

    run(test)
