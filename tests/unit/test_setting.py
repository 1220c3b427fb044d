from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallymarkd.config import BY_NAME
from tallymarkd.setting import GIB, KIB, MIB, TIB, Setting

BASE, HOME = Path("/base"), Path("/home/ada")


def read(setting: Setting, raw: Any) -> Any:
    return setting.read(raw, base=BASE, home=HOME)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("1048576", MIB),
        ("64KiB", 64 * KIB),
        ("64 kib", 64 * KIB),
        (" 2 MiB ", 2 * MIB),
        ("1GiB", GIB),
        ("70000B", 70000),
        (70000, 70000),
    ],
)
def test_a_size_takes_binary_units(raw: object, value: int) -> None:
    assert read(BY_NAME["segment_bytes_max"], raw) == value


@pytest.mark.parametrize(
    "raw",
    ["", "MiB", "1.5 MiB", "1 MB", "1k", "-1", "1e6", "٣٣٣٣٣٣", "9" * 19, 1.5, True, None, [1]],
)
def test_what_is_no_size_is_refused(raw: object) -> None:
    with pytest.raises(ValueError):
        read(BY_NAME["segment_bytes_max"], raw)


@pytest.mark.parametrize("raw", ["30 days", "30B", "1KiB", "3.0", 3.0, False, "0", "36501"])
def test_what_is_no_count_within_its_bounds_is_refused(raw: object) -> None:
    with pytest.raises(ValueError):
        read(BY_NAME["mark_days_max"], raw)


def test_bounds_are_allowed_themselves() -> None:
    for name in ("mark_days_max", "segment_bytes_max", "save_interval_seconds"):
        setting = BY_NAME[name]
        for bound in (setting.about.least, setting.about.most):
            assert bound is not None
            assert read(setting, str(bound)) == bound


@pytest.mark.parametrize(("raw", "value"), [("2.5", 2.5), (3, 3.0), (0.5, 0.5), ("1e1", 10.0)])
def test_seconds_take_fractions(raw: object, value: float) -> None:
    assert read(BY_NAME["save_interval_seconds"], raw) == value


@pytest.mark.parametrize(
    "raw", ["", "5 s", "nan", "inf", float("nan"), True, "0", "3601", None, {}]
)
def test_what_is_no_number_of_seconds_is_refused(raw: object) -> None:
    with pytest.raises(ValueError):
        read(BY_NAME["save_interval_seconds"], raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [("true", True), ("YES", True), ("1", True), (True, True), ("off", False), (False, False)],
)
def test_a_flag_takes_the_usual_words(raw: object, value: bool) -> None:
    assert read(BY_NAME["strict"], raw) is value


@pytest.mark.parametrize("raw", ["", "maybe", 1, 0, None])
def test_what_is_no_flag_is_refused(raw: object) -> None:
    with pytest.raises(ValueError):
        read(BY_NAME["strict"], raw)


def test_a_choice_is_one_of_its_words_in_any_case() -> None:
    setting = BY_NAME["log_format"]
    assert read(setting, "JSON") == "json"
    for wrong in ("xml", "", 1, None):
        with pytest.raises(ValueError):
            read(setting, wrong)
    assert BY_NAME["log_level"].right == "debug, info, warning or error"


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/var/x/../y", "/var/y"),
        ("rel/dir", "/base/rel/dir"),
        ("~/state", "/home/ada/state"),
        ("~", "/home/ada"),
        ("~bob/x", "/base/~bob/x"),
    ],
)
def test_a_path_is_made_absolute(raw: str, path: str) -> None:
    assert read(BY_NAME["state_dir"], raw) == Path(path)


@pytest.mark.parametrize("raw", ["", "a\0b", 3, None, []])
def test_what_is_no_path_is_refused(raw: object) -> None:
    with pytest.raises(ValueError):
        read(BY_NAME["state_dir"], raw)


def test_what_is_shown_can_be_given_again() -> None:
    for setting in BY_NAME.values():
        if setting.default is not None:
            shown = setting.show(setting.default)
            assert read(setting, shown) == setting.default, (setting.name, shown)
    size = BY_NAME["history_bytes_max"]
    for value in (0, 1, 1023, KIB, 3 * MIB, MIB + 1, 5 * GIB, 2 * TIB):
        assert read(size, size.show(value)) == value
    assert size.show(5 * GIB) == "5 GiB"


def test_every_row_of_the_table_is_complete_and_its_name_ends_with_its_unit() -> None:
    units = (
        "dir",
        "bytes",
        "max",
        "days",
        "seconds",
        "level",
        "serve",
        "launchd",
        "format",
        "socket",
        "strict",
    )
    for setting in BY_NAME.values():
        assert setting.about.text, setting.name
        assert setting.kind in ("path", "bool", "int", "float", "str"), setting.name
        assert setting.name.rpartition("_")[2] in units, setting.name
        if setting.kind in ("int", "float"):
            assert setting.about.least is not None, setting.name
            assert setting.about.most is not None, setting.name
            assert setting.about.least <= setting.default <= setting.about.most, setting.name
        if setting.kind == "str":
            assert setting.default in setting.about.choices, setting.name
