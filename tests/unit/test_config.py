from __future__ import annotations

import re
from pathlib import Path

import pytest

import tallymark.paths
from tallymark.errors import SettingError
from tallymark.protocol.framing import FRAME_BYTES_MAX
from tallymarkd.config import CONFIG_VARIABLE, OTHER_VARIABLES, SETTINGS, Settings, load_settings
from tallymarkd.setting import GIB, MIB


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def usual_file(tmp_path: Path) -> Path:
    return tmp_path / ".config" / "tallymark" / "tallymarkd.toml"


def refusal(options: dict[str, str | None], env: dict[str, str]) -> str:
    with pytest.raises(SettingError) as caught:
        load_settings(options, env)
    message = str(caught.value)
    assert message.startswith("cannot ")
    assert "\n" not in message
    return message


def test_defaults(tmp_path: Path, env: dict[str, str]) -> None:
    settings = load_settings({}, env, "linux")
    assert settings.state_dir == tmp_path / ".local/state/tallymark"
    assert settings.socket == settings.state_dir / "run/tallymark.sock"
    assert settings.spool_dir == settings.state_dir / "spool"
    assert settings == Settings(
        state_dir=settings.state_dir, socket=settings.socket, spool_dir=settings.spool_dir
    )
    assert (settings.log_level, settings.log_format, settings.strict) == ("info", "text", False)
    assert settings.segment_bytes_max == 64 * MIB
    assert settings.segment_chunk_bytes == 8 * MIB
    assert settings.commit_bytes_max == 2 * MIB
    assert settings.history_bytes_max == 4 * GIB
    assert settings.history_days_max == 400
    assert settings.save_interval_seconds == 5
    assert settings.idle_mark_seconds == 1
    assert settings.connections_max == 1024
    assert settings.connections_per_user_max == 256
    assert settings.unacknowledged_bytes_max == 8 * MIB
    assert settings.unacknowledged_total_bytes_max == 64 * MIB
    assert settings.frame_pool_bytes_max == 16 * MIB
    assert settings.first_byte_timeout_seconds == settings.frame_timeout_seconds == 10
    assert settings.drain_timeout_seconds == 5
    assert settings.projects_max == 1000
    assert settings.producers_max == 100_000
    assert settings.mark_days_max == 30
    assert settings.config is None
    assert settings.origins["log_level"] == "default"
    assert set(settings.origins) == {setting.name for setting in SETTINGS}


def test_on_macos_the_state_stands_in_the_library() -> None:
    settings = load_settings({}, {"HOME": "/Users/ada"}, "darwin")
    assert settings.state_dir == Path("/Users/ada/Library/Application Support/tallymark")


def test_option_before_variable_before_file_before_default(
    tmp_path: Path, env: dict[str, str]
) -> None:
    file = write(usual_file(tmp_path), "projects_max = 1\nproducers_max = 1\nmark_days_max = 1\n")
    env |= {"TALLYMARK_PROJECTS_MAX": "2", "TALLYMARK_PRODUCERS_MAX": "2"}
    settings = load_settings({"projects_max": "3", "log_level": None}, env)
    assert (settings.projects_max, settings.producers_max, settings.mark_days_max) == (3, 2, 1)
    assert settings.history_days_max == 400
    assert settings.origins["projects_max"] == "option --projects-max"
    assert settings.origins["producers_max"] == "variable TALLYMARK_PRODUCERS_MAX"
    assert settings.origins["mark_days_max"] == str(file)
    assert settings.config == file


def test_an_empty_variable_is_as_if_it_were_not_set(env: dict[str, str]) -> None:
    assert load_settings({}, env | {"TALLYMARK_LOG_LEVEL": ""}).log_level == "info"


def test_an_empty_option_is_refused(env: dict[str, str]) -> None:
    assert "option --log-level" in refusal({"log_level": ""}, env)


def test_the_socket_follows_the_state_directory(tmp_path: Path, env: dict[str, str]) -> None:
    settings = load_settings({"state_dir": str(tmp_path / "s")}, env)
    assert settings.socket == tallymark.paths.socket_path(tmp_path / "s")
    settings = load_settings(
        {"state_dir": str(tmp_path / "s")}, env | {"TALLYMARK_SOCKET": "/run/x.sock"}
    )
    assert settings.socket == Path("/run/x.sock")


@pytest.mark.parametrize("where", ["option", "variable", "xdg"])
def test_where_the_file_is_looked_for(tmp_path: Path, env: dict[str, str], where: str) -> None:
    write(usual_file(tmp_path), "log_level = 'error'\n")
    options: dict[str, str | None] = {}
    if where == "xdg":
        file = write(tmp_path / "xdg/tallymark/tallymarkd.toml", "log_level = 'debug'\n")
        env["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    else:
        file = write(tmp_path / "mine.toml", "log_level = 'debug'\n")
        if where == "option":
            options["config"] = str(file)
            env[CONFIG_VARIABLE] = "/nowhere.toml"
        else:
            env[CONFIG_VARIABLE] = str(file)
    settings = load_settings(options, env)
    assert settings.log_level == "debug"
    assert settings.config == file


def test_a_relative_xdg_config_home_is_ignored(tmp_path: Path, env: dict[str, str]) -> None:
    file = write(usual_file(tmp_path), "log_level = 'error'\n")
    assert load_settings({}, env | {"XDG_CONFIG_HOME": "rel"}).config == file


def test_a_path_in_the_file_is_relative_to_the_file(tmp_path: Path, env: dict[str, str]) -> None:
    file = write(tmp_path / "etc/t.toml", "state_dir = 'state'\n")
    settings = load_settings({"config": str(file)}, env)
    assert settings.state_dir == tmp_path / "etc/state"


def test_a_wrong_value_is_refused_by_name_with_its_place_and_what_is_right(
    tmp_path: Path, env: dict[str, str]
) -> None:
    message = refusal({"segment_bytes_max": "12"}, env)
    assert message == (
        "cannot use segment_bytes_max = '12' (option --segment-bytes-max): "
        "it must be a size from 64 KiB to 1 GiB, in bytes or with KiB, MiB, GiB or TiB"
    )
    message = refusal({}, env | {"TALLYMARK_LOG_LEVEL": "loud"})
    assert "variable TALLYMARK_LOG_LEVEL" in message
    assert "it must be debug, info, warning or error" in message
    file = write(usual_file(tmp_path), "strict = 'x'\n")
    message = refusal({}, env)
    assert f"({file})" in message
    assert "it must be true or false" in message


def test_an_unknown_setting_is_refused_with_the_one_that_may_be_meant(
    tmp_path: Path, env: dict[str, str]
) -> None:
    message = refusal({}, env | {"TALLYMARK_SEGMENT_BYTE_MAX": "1MiB"})
    assert "TALLYMARK_SEGMENT_BYTE_MAX" in message
    assert "TALLYMARK_SEGMENT_BYTES_MAX may be meant" in message
    file = write(usual_file(tmp_path), "log_levl = 'info'\n")
    message = refusal({}, env)
    assert "log_levl" in message
    assert str(file) in message
    assert "log_level may be meant" in message
    write(file, "[colours]\nzzz = 1\n")
    assert "tallymarkd --help lists them" in refusal({}, env)
    assert "frame_bytes_max" in refusal({"frame_bytes_max": "1"}, env)


def test_variables_of_others_are_left_alone(env: dict[str, str]) -> None:
    others = dict.fromkeys([*OTHER_VARIABLES, "TALLY", "_TALLYMARK_COMPLETE"], "x")
    load_settings({}, env | others)


def test_every_variable_that_the_client_reads_is_known() -> None:
    source = Path(tallymark.paths.__file__).parent
    found = {
        name
        for path in source.rglob("*.py")
        for name in re.findall(r"\bTALLYMARK_[A-Z_]+\b", path.read_text(encoding="utf-8"))
    }
    assert found, "the client reads no variable at all"
    assert found <= OTHER_VARIABLES | {setting.variable for setting in SETTINGS}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("strict = true\nlog_level = \n", "line 2"),
        ("strict = true\nstrict = true\n", "line 2"),
        ("a = 1\nb = 'open", "line 2"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    tmp_path: Path, env: dict[str, str], text: str, cause: str
) -> None:
    file = write(tmp_path / "broken.toml", text)
    message = refusal({"config": str(file)}, env)
    assert str(file) in message
    assert cause in message


@pytest.mark.parametrize(
    "text", [f"frame_timeout_seconds = {'9' * 5000}", f"strict = {'[' * 2000}{']' * 2000}"]
)
def test_what_python_itself_cannot_read_is_a_broken_file_too(
    tmp_path: Path, env: dict[str, str], text: str
) -> None:
    file = write(tmp_path / "broken.toml", text)
    assert f"cannot read the configuration {file}: " in refusal({"config": str(file)}, env)


def test_a_number_beyond_all_bounds_is_refused_by_name(tmp_path: Path, env: dict[str, str]) -> None:
    file = write(tmp_path / "t.toml", f"frame_timeout_seconds = {'9' * 400}")
    assert "cannot use frame_timeout_seconds = " in refusal({"config": str(file)}, env)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, env: dict[str, str]) -> None:
    missing = tmp_path / "none.toml"
    assert f"{missing}: No such file" in refusal({"config": str(missing)}, env)
    assert f"{tmp_path}: Is a directory" in refusal({"config": str(tmp_path)}, env)
    (tmp_path / "latin.toml").write_bytes(b"log_level = '\xe9'\n")
    assert "is not UTF-8" in refusal({"config": str(tmp_path / "latin.toml")}, env)


def test_a_socket_path_that_no_address_can_hold_is_refused(
    tmp_path: Path, env: dict[str, str]
) -> None:
    limit = tallymark.paths.SOCKET_PATH_BYTES_MAX
    long = "/" + "é" * ((limit - 1) // 2)
    long += "x" * (limit - len(long.encode()))
    assert load_settings({"socket": long}, env).socket == Path(long)
    message = refusal({"socket": long + "x"}, env)
    assert "option --socket" in message
    assert f"{limit + 1} bytes" in message
    message = refusal({"state_dir": "/" + "s" * limit}, env)
    assert "option --state-dir" in message
    assert "--socket" in message


def test_nothing_lets_the_protocols_limits_be_undercut() -> None:
    least = {setting.name: setting.about.least for setting in SETTINGS}
    for name in ("unacknowledged_bytes_max", "unacknowledged_total_bytes_max"):
        assert (least[name] or 0) > FRAME_BYTES_MAX
    assert (least["frame_pool_bytes_max"] or 0) > FRAME_BYTES_MAX
