"""The daemon's settings: one table for options, variables, the file and the docs.

A value is taken from the first place that has one: the option, the variable
``TALLYMARK_<NAME>``, the TOML file, the default. The file is the one named by
``--config`` or ``TALLYMARK_CONFIG``, else ``tallymark/tallymarkd.toml`` under
``$XDG_CONFIG_HOME`` (``~/.config``) if it exists.

What the protocol fixes (frame 1 MiB, event 64 KiB, 4096 events of a batch)
is no setting.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tallymark import paths
from tallymark.errors import SettingError
from tallymarkd.setting import GIB, KIB, MIB, PREFIX, About, Setting
from tallymarkd.text import quoted

CONFIG_VARIABLE: Final = "TALLYMARK_CONFIG"

OTHER_VARIABLES: Final = frozenset(
    {
        "TALLYMARK_CI",
        "TALLYMARK_DISABLED",
        "TALLYMARK_PARENT_RUN_ID",
        "TALLYMARK_PROJECT",
        "TALLYMARK_SESSION_ID",
    }
)
"""Variables of the client library and of the tests, which a daemon may find around it."""


def _about(
    text: str,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    *,
    reload: bool = False,
) -> dict[str, About]:
    return {"about": About(text, least, most, choices, reload)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, checked. ``origins`` says where each came from."""

    state_dir: Path = field(
        metadata=_about("directory of journal, state files and lock; one daemon each")
    )
    socket: Path = field(metadata=_about("Unix socket to listen on"))
    spool_dir: Path = field(
        metadata=_about("directory where agents leave what they cannot deliver")
    )
    log_level: str = field(
        default="info",
        metadata=_about(
            "least that is logged", choices=("debug", "info", "warning", "error"), reload=True
        ),
    )
    log_format: str = field(
        default="text",
        metadata=_about("text, or json: one object a line", choices=("text", "json"), reload=True),
    )
    serve: str = field(
        default="own",
        metadata=_about(
            "who is served: own (this user and root), or all whom the socket's permissions let in",
            choices=("own", "all"),
        ),
    )
    launchd: bool = field(
        default=False, metadata=_about("take the socket from launchd, which started this daemon")
    )
    strict: bool = field(
        default=False,
        metadata=_about("refuse to start when the journal has lost what was acknowledged"),
    )
    segment_bytes_max: int = field(
        default=64 * MIB, metadata=_about("size at which a journal file is rolled", 64 * KIB, GIB)
    )
    segment_chunk_bytes: int = field(
        default=8 * MIB,
        metadata=_about("disk space taken ahead for the journal, at a time", 4 * KIB, GIB),
    )
    commit_bytes_max: int = field(
        default=2 * MIB,
        metadata=_about("most that one commit writes", 64 * KIB, 64 * MIB, reload=True),
    )
    history_bytes_max: int = field(
        default=4 * GIB, metadata=_about("journal kept as history, by size", 0, 2**50, reload=True)
    )
    history_days_max: int = field(
        default=400, metadata=_about("journal kept as history, by age", 0, 36500, reload=True)
    )
    save_interval_seconds: float = field(
        default=5.0,
        metadata=_about("goal for saving state after a change", 0.05, 3600, reload=True),
    )
    idle_mark_seconds: float = field(
        default=1.0,
        metadata=_about(
            "quiet time after which the journal notes its end", 0.05, 3600, reload=True
        ),
    )
    connections_max: int = field(
        default=1024, metadata=_about("connections at one time", 1, 65536, reload=True)
    )
    connections_per_user_max: int = field(
        default=256, metadata=_about("connections of each other user", 0, 65536, reload=True)
    )
    unacknowledged_bytes_max: int = field(
        default=8 * MIB,
        metadata=_about("taken from one connection and not yet durable", 2 * MIB, GIB, reload=True),
    )
    unacknowledged_total_bytes_max: int = field(
        default=64 * MIB,
        metadata=_about(
            "taken from all connections and not yet durable", 2 * MIB, 16 * GIB, reload=True
        ),
    )
    frame_pool_bytes_max: int = field(
        default=16 * MIB,
        metadata=_about("memory for incomplete frames over 64 KiB", 2 * MIB, 16 * GIB),
    )
    first_byte_timeout_seconds: float = field(
        default=10.0, metadata=_about("time for a connection to begin", 0.05, 3600, reload=True)
    )
    frame_timeout_seconds: float = field(
        default=10.0,
        metadata=_about("time to finish a frame that has begun", 0.05, 3600, reload=True),
    )
    drain_timeout_seconds: float = field(
        default=5.0, metadata=_about("time to stop in", 0.05, 3600, reload=True)
    )
    projects_max: int = field(default=1000, metadata=_about("projects", 1, 1_000_000, reload=True))
    producers_max: int = field(
        default=100_000,
        metadata=_about("producers whose marks are kept", 1, 10_000_000, reload=True),
    )
    mark_days_max: int = field(
        default=30,
        metadata=_about(
            "running time after which a silent producer's mark goes", 1, 36500, reload=True
        ),
    )
    config: Path | None = None
    again: Callable[[], Settings] | None = field(default=None, compare=False, repr=False)
    """Reads the settings anew from where these came: the same options and variables, the
    file as it stands by then. Raises ``SettingError``."""
    origins: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )


def _setting(found: Field[Any]) -> Setting:
    kind = "path" if found.type == "Path" else str(found.type)
    default = None if found.default is MISSING else found.default
    return Setting(found.name, kind, default, found.metadata["about"])


SETTINGS: Final = tuple(_setting(found) for found in fields(Settings) if found.metadata)
"""The table, in the order of the documentation."""

BY_NAME: Final = {setting.name: setting for setting in SETTINGS}


def load_settings(
    options: Mapping[str, str | None],
    env: Mapping[str, str],
    platform: str = sys.platform,
) -> Settings:
    """The settings in force. ``options`` has what was given on the command line,
    by name (``config`` among them); None and a missing name mean not given.

    Raises ``SettingError``, which names the setting, where it came from, and
    what would be right.
    """
    _refuse_unknown(options, (*BY_NAME, "config"), lambda name: f"option --{name}")
    _refuse_unknown_variables(env)
    config = _config_file(options, env)
    table = {} if config is None else _read_toml(config)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        raw, origin, base = _find(setting, options, env, table, config)
        if origin is not None:
            values[setting.name] = _check(setting, raw, origin, base, _home(env))
        origins[setting.name] = origin or "default"
    if "state_dir" not in values:
        values["state_dir"] = paths.state_dir(env, platform)
    if "socket" not in values:
        values["socket"] = paths.socket_path(values["state_dir"])
        origins["socket"] = f"in state_dir: {origins['state_dir']}"
    if "spool_dir" not in values:
        values["spool_dir"] = paths.spool_dir(None, env)
    _check_socket(values["socket"], origins)
    return Settings(
        **values,
        config=config,
        again=partial(load_settings, dict(options), dict(env), platform),
        origins=MappingProxyType(origins),
    )


def _find(
    setting: Setting,
    options: Mapping[str, str | None],
    env: Mapping[str, str],
    table: Mapping[str, Any],
    config: Path | None,
) -> tuple[Any, str | None, Path]:
    """The raw value, where it came from (None: nowhere), and what a path is relative to."""
    here = Path.cwd
    given = options.get(setting.name)
    if given is not None:
        return given, f"option {setting.option}", here()
    if env.get(setting.variable):
        return env[setting.variable], f"variable {setting.variable}", here()
    if config is not None and setting.name in table:
        return table[setting.name], str(config), config.parent
    return None, None, Path()


def _config_file(options: Mapping[str, str | None], env: Mapping[str, str]) -> Path | None:
    named = options.get("config") or env.get(CONFIG_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    home = env.get("XDG_CONFIG_HOME", "")
    base = Path(home) if os.path.isabs(home) else _home(env) / ".config"
    usual = base / "tallymark" / "tallymarkd.toml"
    return usual if usual.exists() else None


def _home(env: Mapping[str, str]) -> Path:
    return Path(env["HOME"]) if env.get("HOME") else Path("~").expanduser()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode()
        table = tomllib.loads(text)
    except OSError as error:
        raise SettingError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingError(
            f"cannot read the configuration {path}: byte {error.start} is not UTF-8"
        ) from None
    except tomllib.TOMLDecodeError as error:
        last = f"at line {len(text.splitlines())}, the end"
        cause = str(error).replace("at end of document", last)
        raise SettingError(f"cannot read the configuration {path}: {cause}") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; lists in lists
        raise SettingError(f"cannot read the configuration {path}: {error}") from None
    _refuse_unknown(table, BY_NAME, lambda name: f"setting {name} in {path}")
    return table


def _refuse_unknown(
    given: Iterable[str], known: Iterable[str], describe: Callable[[str], str]
) -> None:
    for name in given:
        if name not in known:
            raise SettingError(f"cannot use {describe(name)}: {_unknown(name, known)}")


def _unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    if near:
        return f"there is no such setting; {near[0]} may be meant"
    return "there is no such setting; tallymarkd --help lists them"


def _refuse_unknown_variables(env: Mapping[str, str]) -> None:
    """A misspelt variable must not pass for one that was obeyed."""
    known = {setting.variable for setting in SETTINGS} | OTHER_VARIABLES | {CONFIG_VARIABLE}
    ours = sorted(name for name in env if name.startswith(PREFIX))
    _refuse_unknown(ours, known, lambda name: f"variable {name}")


def _check(setting: Setting, raw: Any, origin: str, base: Path, home: Path) -> Any:
    try:
        return setting.read(raw, base=base, home=home)
    except ValueError:
        raise SettingError(
            f"cannot use {setting.name} = {_quoted(raw)} ({origin}): it must be {setting.right}"
        ) from None


def _quoted(raw: Any) -> str:
    if isinstance(raw, bool):
        return "true" if raw else "false"
    return quoted(raw)


def _check_socket(socket: Path, origins: Mapping[str, str]) -> None:
    length, most = len(os.fsencode(socket)), paths.SOCKET_PATH_BYTES_MAX
    if length > most:
        raise SettingError(
            f"cannot use socket = {str(socket)!r} ({origins['socket']}): it has {length} "
            f"bytes, a socket's path at most {most}; give a shorter one with --socket"
        )
