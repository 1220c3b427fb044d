"""systemd units from the templates in ``tallymarkd/units``.

A template has ``@{name}`` where a value goes; ``$`` and ``%`` are systemd's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Final

from tallymark.errors import PathError
from tallymarkd._version import __version__

SOCKET: Final = "tallymarkd.socket"
SERVICE: Final = "tallymarkd.service"
SYSUSERS: Final = "tallymark.conf"

UNSET: Final = ("TALLYMARK_SOCKET", "TALLYMARK_LAUNCHD", "PYTHONHOME", "PYTHONPATH")
"""Variables that the manager may have for all services, and ours does not get."""

MARK: Final = "Written by `tallymark service install`"
"""Stands in the first lines of every file that is ours to replace and to remove."""

_placeholder = re.compile(r"@\{([a-z_]+)\}")
_word = re.compile(r'("((?:[^"\\]|\\.)*)"|\S+)')
_plain = re.compile(r"[A-Za-z0-9/._+@:,=~-]+")


def marker() -> str:
    """The line at the top of every file that is written, less its comment sign."""
    return f"{MARK} of tallymark {__version__}, which also replaces it."


def without_version(text: str) -> str:
    """A file's text, the same for every version that would write the rest alike."""
    return re.sub(re.escape(MARK) + r" of tallymark \S+,", MARK, text, count=1)


def executable(path: str | Path) -> str:
    """A path as the first word of ``ExecStart=:``, which systemd has be still plainer.

    Raises ``PathError`` for one that no unit can hold.
    """
    if set(os.fspath(path)) & set("'\"\\"):
        raise _cannot_hold(os.fspath(path))
    return quote(path)


def quote(path: str | Path) -> str:
    """A path as one word of a unit's ``ExecStart=:``, ``ReadWritePaths=`` or
    ``Environment=``. Raises ``PathError`` for one that no unit can hold."""
    text = literal(path).replace("\\", "\\\\").replace('"', '\\"')
    return text if _plain.fullmatch(text) else f'"{text}"'


def literal(path: str | Path) -> str:
    """A path as the whole value of ``ListenStream=``, where quotes are characters.

    Raises ``PathError`` for one that no unit can hold.
    """
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _cannot_hold(text) from None
    if not text.isprintable() or text != text.strip() or text.endswith("\\"):
        raise _cannot_hold(text)
    return text.replace("%", "%%")


def words(line: str) -> list[str]:
    """What ``quote`` and ``executable`` made into a line, as it was."""
    return [
        plain(re.sub(r"\\(.)", r"\1", quoted) if word.startswith('"') else word)
        for word, quoted in _word.findall(line)
    ]


def plain(value: str) -> str:
    """What ``literal`` made into a value, as it was."""
    return value.replace("%%", "%")


def _cannot_hold(text: str) -> PathError:
    return PathError(
        f"cannot write {text!r} into a unit: it has characters that systemd does not take; "
        "choose another path"
    )


def user_units(
    *, daemon: str, state_dir: str, spool_dir: str, socket: str, writable: str,
    environment: str = "", sandbox: bool = True,
) -> dict[str, str]:  # fmt: skip
    """Name and text of the units of a user's service.

    Values are given as they stand in a unit: quoted, or with specifiers.
    ``environment`` is assignments as for ``Environment=``. ``sandbox`` False leaves
    out what needs namespaces.
    """
    values = {
        "daemon": daemon,
        "state_dir": state_dir,
        "spool_dir": spool_dir,
        "socket": socket,
        "writable": writable,
        "environment": f"Environment={environment}\n" if environment else "",
    }
    values["sandbox"] = _fill("user-sandbox.conf", values) if sandbox else ""
    return _units("user", values)


def sandbox_settings() -> list[str]:
    """The assignments of a user unit that need namespaces, less those with paths in them."""
    lines = _fill("user-sandbox.conf", {"writable": ""}).splitlines()
    return [line for line in lines if "=" in line and not line.startswith(("#", "ReadWritePaths="))]


def system_units(*, daemon: str, socket: str) -> dict[str, str]:
    """Name and text of the units of the system's service."""
    return _units("system", {"daemon": daemon, "socket": socket})


def _units(kind: str, values: Mapping[str, str]) -> dict[str, str]:
    shared = _fill("shared-service.conf", {"unset": " ".join(UNSET)})
    values = {**values, "shared": shared}
    return {name: _fill(f"{kind}-{name}", values) for name in (SOCKET, SERVICE)}


def sysusers() -> str:
    """The text of the file for systemd-sysusers, which creates user and group."""
    return _fill("system-sysusers.conf", {})


def _fill(template: str, values: Mapping[str, str]) -> str:
    text = files("tallymarkd").joinpath("units", template).read_text(encoding="utf-8")
    values = {**values, "marker": f"# {marker()}"}
    return _placeholder.sub(lambda found: values[found[1]], text)
