from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tallymarkd import app
from tallymarkd.app import fail_with
from tallymarkd.config import SETTINGS, Settings


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


def _keep(used: list[Any], **given: Any) -> None:
    used.append(given)


def test_a_reload_reaches_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """What says of itself that it is taken over is taken over by somebody."""
    logged: list[tuple[str, str]] = []
    monkeypatch.setattr(
        app, "set_up_logging", lambda level, form, env: logged.append((level, form))
    )
    monkeypatch.setattr(app, "make_room", lambda connections: connections)
    old = Settings(state_dir=Path("/s"), socket=Path("/s/t"), spool_dir=Path("/s/p"))
    for setting in SETTINGS:
        if not setting.about.reload:
            continue
        value = getattr(old, setting.name)
        others = [choice for choice in setting.about.choices if choice != value]
        change: dict[str, Any] = {setting.name: others[0] if others else value * 2}
        seen = []
        for settings in (old, replace(old, **change)):
            daemon: Any = app._Daemon.__new__(app._Daemon)
            daemon._env = {}
            used: list[Any] = []
            for name in ("_vitals", "_desk"):
                setattr(daemon, name, SimpleNamespace())
            for name in ("_engine", "_checkpointer"):
                setattr(daemon, name, SimpleNamespace(use=used.append))
            daemon._committer = SimpleNamespace(use=partial(_keep, used))
            daemon._apply(settings)
            assert daemon._settings is daemon._vitals.settings is settings
            drain = daemon._settings.drain_timeout_seconds
            seen.append(f"{daemon._desk} {used} {logged[-1]} {drain}")
        assert seen[0] != seen[1], setting.name
