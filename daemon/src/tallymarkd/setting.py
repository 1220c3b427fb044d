"""One setting of the daemon: how its value is read, checked and shown."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PREFIX: Final = "TALLYMARK_"

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

UNITS: Final = "KiB, MiB, GiB or TiB"
"""What a size may have, for people."""

_UNITS: Final = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB}
_FLAGS: Final = {"true": True, "1": True, "yes": True, "on": True} | {
    "false": False, "0": False, "no": False, "off": False
}  # fmt: skip
_sized = re.compile(r"\s*(\d{1,18})\s*([A-Za-z]*)\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a setting beside its type and default.

    ``reload`` says that a running daemon takes over a new value (SIGHUP).
    """

    text: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    reload: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. ``kind`` is ``path``, ``bool``, ``int``, ``float`` or ``str``.

    ``default`` is None where it depends on the environment.
    """

    name: str
    kind: str
    default: Any
    about: About

    @property
    def option(self) -> str:
        """Its command line option."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return PREFIX + self.name.upper()

    @property
    def in_bytes(self) -> bool:
        """Whether it is a size, and takes KiB, MiB, GiB and TiB."""
        return self.kind == "int" and "bytes" in self.name.split("_")

    @property
    def right(self) -> str:
        """What would be right, for a message."""
        if self.about.choices:
            *others, last = self.about.choices
            return f"{', '.join(others)} or {last}"
        if self.kind == "bool":
            return "true or false"
        if self.kind == "path":
            return "a path"
        least, most = self.show(self.about.least), self.show(self.about.most)
        if self.in_bytes:
            return f"a size from {least} to {most}, in bytes or with {UNITS}"
        what = "a number" if self.kind == "float" else "a whole number"
        return f"{what} from {least} to {most}"

    def show(self, value: object) -> str:
        """A value of this setting as people read it, and as it can be given."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if self.in_bytes and isinstance(value, int):
            return _size(value)
        if isinstance(value, float):
            return f"{value:g}"
        return str(value)

    def read(self, raw: Any, *, base: Path, home: Path) -> Any:
        """The value that ``raw`` stands for: text, or what TOML made of it.

        A path is relative to ``base``; ``~`` is ``home``. Raises ``ValueError``.
        """
        match self.kind:
            case "path":
                return _path(raw, base, home)
            case "bool":
                return _flag(raw)
            case "str":
                return self._choice(raw)
            case "float":
                return self._bounded(_float(raw))
            case _:
                return self._bounded(_whole(raw, in_bytes=self.in_bytes))

    def _choice(self, raw: Any) -> str:
        if not isinstance(raw, str) or raw.lower() not in self.about.choices:
            raise ValueError(raw)
        return raw.lower()

    def _bounded(self, value: float) -> float:
        least, most = self.about.least, self.about.most
        if (least is not None and value < least) or (most is not None and value > most):
            raise ValueError(value)
        return value


def _path(raw: Any, base: Path, home: Path) -> Path:
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise ValueError(raw)
    if raw == "~" or raw.startswith("~/"):
        raw = str(home) + raw[1:]
    return Path(os.path.normpath(base / raw))


def _flag(raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or raw.lower() not in _FLAGS:
        raise ValueError(raw)
    return _FLAGS[raw.lower()]


def _float(raw: Any) -> float:
    try:
        value = math.nan if isinstance(raw, bool) else float(raw)
    except (TypeError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(raw)
    return value


def _whole(raw: Any, *, in_bytes: bool) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    matched = _sized.fullmatch(raw) if isinstance(raw, str) else None
    unit = _UNITS.get(matched[2].upper()) if matched else None
    if matched is None or unit is None or (matched[2] and not in_bytes):
        raise ValueError(raw)
    return int(matched[1]) * unit


def _size(value: int) -> str:
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if value and value % unit == 0:
            return f"{value // unit} {name}"
    return str(value)
