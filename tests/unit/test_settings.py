"""Settings: what is refused, and that the message names it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tallymark.errors import SettingError
from tallymark.settings import Settings, check_name, is_disabled


def test_defaults_are_right() -> None:
    settings = Settings()
    assert (settings.linger_seconds, settings.exit_timeout_seconds) == (0.02, 0.2)
    assert (settings.batch_events_max, settings.queue_events_max) == (1024, 10_000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_events_max", 0),
        ("batch_events_max", 4097),
        ("batch_events_max", 1.5),
        ("batch_events_max", True),
        ("queue_events_max", 0),
        ("queue_events_max", "many"),
        ("linger_seconds", -0.1),
        ("linger_seconds", math.nan),
        ("linger_seconds", math.inf),
        ("linger_seconds", "soon"),
        ("linger_seconds", True),
        ("exit_timeout_seconds", -1),
        ("exit_timeout_seconds", None),
        ("ack_timeout_seconds", 0),
        ("welcome_timeout_seconds", 0.0),
        ("backoff_seconds_min", 0),
        ("backoff_seconds_max", 3601),
    ],
)
def test_a_wrong_setting_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingError) as told:
        Settings(**{name: value})
    assert str(told.value).startswith(f"cannot use {name}={value!r}: ")
    assert str(told.value).endswith(" right")


def test_the_bounds_themselves_are_right() -> None:
    Settings(batch_events_max=1, queue_events_max=1, linger_seconds=0, exit_timeout_seconds=0)
    Settings(batch_events_max=4096, linger_seconds=3600, ack_timeout_seconds=1e-9)


@pytest.mark.parametrize("value", ["", "x" * 513, " ", "line\nbreak", "\0", None, 5])
def test_a_wrong_name_is_refused(value: Any) -> None:
    with pytest.raises(SettingError, match="cannot use project="):
        check_name("project", value)


@pytest.mark.parametrize("value", ["p", "x" * 512, "My Project (2)", "проект"])
def test_a_right_name_is_given_back(value: str) -> None:
    assert check_name("project", value) == value


@pytest.mark.parametrize(
    ("value", "disabled"),
    [("", False), ("0", False), ("off", False), ("1", True), ("TRUE", True), (" yes ", True)],
)
def test_disabled(value: str, disabled: bool) -> None:
    assert is_disabled({"TALLYMARK_DISABLED": value}) is disabled
    assert is_disabled({}) is False


def test_disabled_by_what_is_no_yes_or_no_is_refused() -> None:
    with pytest.raises(SettingError, match="TALLYMARK_DISABLED='perhaps'"):
        is_disabled({"TALLYMARK_DISABLED": "perhaps"})
