from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from tallymarkd import parts
from tallymarkd.config import SETTINGS, Settings

DEFAULTS = Settings(state_dir=Path("/s"), socket=Path("/s/t.sock"), spool_dir=Path("/s/spool"))
MAKERS = (
    parts.journal_settings, parts.checkpoint_settings, parts.engine_settings, parts.server_settings
)  # fmt: skip
ELSEWHERE = {"mark_seconds_max", "random_bytes", "clock_ns", "serves_all"}


@pytest.mark.parametrize("make", MAKERS)
def test_every_limit_of_a_part_is_the_setting_of_its_name(make: Any) -> None:
    numbers = {
        setting.name: 1000 + at for at, setting in enumerate(SETTINGS) if setting.kind == "int"
    }
    changes: dict[str, Any] = {**numbers, "save_interval_seconds": 1.5,
        "first_byte_timeout_seconds": 2.5, "frame_timeout_seconds": 3.5}  # fmt: skip
    settings = replace(DEFAULTS, **changes)

    made = make(settings)

    names = {field.name for field in fields(made)} - ELSEWHERE
    assert names
    assert {name: getattr(made, name) for name in names} == {
        name: getattr(settings, name) for name in names
    }


def test_who_is_served() -> None:
    assert not parts.server_settings(DEFAULTS).serves_all
    assert parts.server_settings(replace(DEFAULTS, serve="all")).serves_all
