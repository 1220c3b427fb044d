from __future__ import annotations

import asyncio
from typing import Any

from tallymarkd.app import fail_with


def test_what_ends_a_task_comes_to_the_loop_at_once() -> None:
    """It must not wait for somebody who awaits the task, or for its collection."""

    async def main() -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))

        async def fail() -> None:
            raise RuntimeError("a fault of ours")

        async def wait() -> None:
            await loop.create_future()

        tasks = [loop.create_task(fail()), loop.create_task(wait())]
        for task in tasks:
            task.add_done_callback(fail_with)
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait(tasks)
        await asyncio.sleep(0)
        return told

    (context,) = asyncio.run(main())
    assert str(context["exception"]) == "a fault of ours"
