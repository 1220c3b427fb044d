"""What an installed service says of its places: read from its units, or its plist."""

from __future__ import annotations

import plistlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final
from xml.parsers.expat import ExpatError

from tallymarkd.service import plist, render

CONFIG_HOME: Final = "XDG_CONFIG_HOME"


@dataclass(frozen=True)
class Kept:
    """Places of a service that is installed. None is for what its files do not tell."""

    state_dir: Path | None = None
    spool_dir: Path | None = None
    socket: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def from_units(socket: str, service: str) -> Kept:
    """From the texts of both units; empty for one that is missing."""
    words = render.words(_value(service, "ExecStart"))
    pairs = (word.partition("=") for word in render.words(_value(service, "Environment")))
    listen = render.plain(_value(socket, "ListenStream"))
    return _kept(words, listen, {name: value for name, _, value in pairs})


def from_plist(text: str) -> Kept:
    """From the LaunchAgent's text, which may be damaged."""
    try:
        job = plistlib.loads(text.encode())
        return _kept(
            job["ProgramArguments"],
            job["Sockets"][plist.SOCKET_KEY]["SockPathName"],
            job.get("EnvironmentVariables", {}),
        )
    except (ExpatError, plistlib.InvalidFileException, ValueError, KeyError, TypeError):
        return Kept()


def _kept(words: Sequence[str], listen: str, environment: Mapping[str, str]) -> Kept:
    socket = Path(listen) if listen else None
    state_dir = _after("--state-dir", words)
    if state_dir is None and socket is not None:
        state_dir = socket.parent.parent
    own = {CONFIG_HOME: environment[CONFIG_HOME]} if CONFIG_HOME in environment else {}
    return Kept(state_dir, _after("--spool-dir", words), socket, own)


def _after(option: str, words: Sequence[str]) -> Path | None:
    return next((Path(value) for name, value in pairwise(words) if name == option), None)


def _value(text: str, name: str) -> str:
    found = re.search(rf"^{name}=:?(.*)$", text, re.MULTILINE)
    return found[1] if found else ""
