from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tallymarkd.config import SETTINGS, Settings, load_settings
from tallymarkd.reloading import merge, reload, tell


def settings(tmp_path: Path, text: str, **options: str) -> Settings:
    (tmp_path / "t.toml").write_text(text)
    given = {"config": str(tmp_path / "t.toml"), "state_dir": str(tmp_path / "s"), **options}
    return load_settings(given, {"HOME": str(tmp_path)})


def test_what_can_change_changes_and_the_rest_waits(tmp_path: Path) -> None:
    running = settings(tmp_path, "log_level = 'info'\nstrict = false\nprojects_max = 5\n")
    (tmp_path / "t.toml").write_text("log_level = 'debug'\nstrict = true\nprojects_max = 5\n")

    came = reload(running, running)

    assert came.settings.log_level == "debug"
    assert came.settings.origins["log_level"] == str(tmp_path / "t.toml")
    assert came.settings.strict is False
    assert came.text == "set log_level = debug; strict will change with the next restart"


def test_what_is_gone_from_the_file_goes_back_to_its_default(tmp_path: Path) -> None:
    running = settings(tmp_path, "commit_bytes_max = '4MiB'\n")
    (tmp_path / "t.toml").write_text("")

    came = reload(running, running)

    assert came.settings.commit_bytes_max == 2 * 1024 * 1024
    assert came.settings.origins["commit_bytes_max"] == "default"
    assert came.text == "set commit_bytes_max = 2 MiB"


def test_an_option_still_goes_before_the_file(tmp_path: Path) -> None:
    running = settings(tmp_path, "", projects_max="7")
    (tmp_path / "t.toml").write_text("projects_max = 9\n")

    came = reload(running, running)

    assert came.settings.projects_max == 7
    assert came.text == "no setting has changed"


def test_what_waits_is_told_again_and_forgotten_when_taken_back(tmp_path: Path) -> None:
    started = settings(tmp_path, "log_level = 'info'\n")
    (tmp_path / "t.toml").write_text("log_level = 'error'\nstrict = true\n")
    first = reload(started, started)
    again = reload(first.settings, started)
    assert (first.waiting, again.waiting) == (("strict",), ("strict",))
    assert again.applied == ()

    (tmp_path / "t.toml").write_text("log_level = 'info'\n")
    back = reload(again.settings, started)
    assert back.text == "set log_level = info"


@pytest.mark.parametrize(
    ("text", "why"),
    [("log_level = 'loud'\n", "cannot use log_level"), ("log_level = [", "cannot read")],
)
def test_a_file_that_is_wrong_changes_nothing(tmp_path: Path, text: str, why: str) -> None:
    running = settings(tmp_path, "log_level = 'info'\n")
    (tmp_path / "t.toml").write_text(text)

    came = reload(running, running)

    assert came.settings is running
    assert why in came.problem
    assert came.text.endswith("; the settings stay as they were")


def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    running = settings(tmp_path, "log_level = 'error'\n")
    (tmp_path / "t.toml").unlink()

    came = reload(running, running)

    assert came.settings is running
    assert "t.toml" in came.problem


def test_every_setting_either_changes_or_waits(tmp_path: Path) -> None:
    """Nothing that a file can say is passed over in silence."""
    running = settings(tmp_path, "")
    for setting in SETTINGS:
        value = getattr(running, setting.name)
        other = {
            "bool": not value,
            "path": tmp_path / "elsewhere",
            "str": next((c for c in setting.about.choices if c != value), ""),
        }.get(setting.kind, value * 2 if setting.kind in ("int", "float") else None)
        change: dict[str, Any] = {setting.name: other}
        changed = replace(running, **change)

        came = merge(running, running, changed)

        assert bool(came.applied) == setting.about.reload
        assert came.waiting == (() if setting.about.reload else (setting.name,))
        taken = getattr(came.settings, setting.name)
        assert taken == (other if setting.about.reload else value)


def test_what_came_of_it_is_told_as_loudly_as_it_matters(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = settings(tmp_path, "log_level = 'info'\n")
    with caplog.at_level(logging.INFO):
        tell(reload(running, running))
        (tmp_path / "t.toml").write_text("strict = true\n")
        tell(reload(running, running))
        (tmp_path / "t.toml").write_text("[")
        tell(reload(running, running))

    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told[0] == ("INFO", "reloaded: no setting has changed")
    assert told[1] == ("WARNING", "reloaded: strict will change with the next restart")
    assert told[2][0] == "WARNING"
    assert told[2][1].startswith("cannot reload: cannot read the configuration ")
