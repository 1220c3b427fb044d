"""``tallymarkd`` on a disk that fails as a test says, while it runs.

``python failing_daemon.py FOLDER tallymarkd-options…``. FOLDER/rules.json is looked
at before every file operation: a list of rules, each with the ``kinds`` of
operations that fail, a ``part`` of the path, the name of the ``error``, and how
many ``times`` (else until the rule is gone). Every failure, and every operation on
a segment after one, is a line in FOLDER/struck.

FOLDER/short makes every write hand over only a few bytes at a time.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tallymark.fs import OsFileSystem
from tallymarkd import __main__, app

OPENING = ("open_read", "open_write", "create", "lock")
ON_FD = ("read", "write", "allocate", "truncate", "size", "sync_data", "sync")
ON_PATH = ("sync_dir", "replace", "link", "unlink", "mkdir", "names", "stamp")
SHORT_BYTES = 1000


@dataclass(frozen=True)
class Rule:
    """What fails."""

    kinds: tuple[str, ...]
    error: str = "EIO"
    part: str = ""
    times: int = 0


@dataclass
class Disk:
    """The test's side: what fails from now on, and what has failed."""

    folder: Path
    rules: list[Rule] = field(default_factory=list)

    def fail(self, *kinds: str, error: str = "EIO", part: str = "", times: int = 0) -> None:
        self.rules.append(Rule(kinds, error, part, times))
        self._write()

    def heal(self) -> None:
        self.rules.clear()
        self._write()

    def _write(self) -> None:
        self.folder.mkdir(exist_ok=True)
        temporary = self.folder / "rules.tmp"
        temporary.write_text(json.dumps([rule.__dict__ for rule in self.rules]))
        temporary.replace(self.folder / "rules.json")

    def write_short(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "short").touch()

    def struck(self) -> list[str]:
        path = self.folder / "struck"
        return path.read_text().splitlines() if path.exists() else []


class FailingFileSystem(OsFileSystem):
    """The real one, with faults."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[int, str] = {}
        self._times: Counter[str] = Counter()
        self._struck = False
        for kind in (*OPENING, *ON_FD, *ON_PATH):
            setattr(self, kind, self._wrapped(kind, getattr(self, kind)))

    def _wrapped(self, kind: str, call: Any) -> Any:
        def wrapper(*args: Any) -> Any:
            path = self._paths.get(args[0], "") if kind in ON_FD else str(args[-1])
            self._strike(kind, path)
            result = call(*args)
            if kind in OPENING:
                self._paths[result] = path
            elif kind == "replace":
                renamed = {fd: path for fd, old in self._paths.items() if old == str(args[0])}
                self._paths.update(renamed)
            return result

        return wrapper

    def _strike(self, kind: str, path: str) -> None:
        for rule in self._rules():
            key = json.dumps(rule)
            spent = rule["times"] and self._times[key] >= rule["times"]
            if kind in rule["kinds"] and rule["part"] in path and not spent:
                self._times[key] += 1
                self._note(f"failed {kind} {path}")
                self._struck = True
                code = getattr(errno, rule["error"])
                raise OSError(code, os.strerror(code), path)
        if self._struck and path.endswith(".seg") and kind in ("write", "sync_data"):
            self._note(f"after {kind} {path}")

    def _rules(self) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = json.loads((self._folder / "rules.json").read_text())
        except FileNotFoundError:
            return []
        return found

    def _note(self, line: str) -> None:
        with (self._folder / "struck").open("a") as file:
            file.write(line + "\n")


def main() -> None:
    """Run with this file system."""
    folder = Path(sys.argv[1])
    if (folder / "short").exists():
        whole = os.pwrite
        os.pwrite = lambda fd, data, at: whole(fd, memoryview(data)[:SHORT_BYTES], at)
    sys.argv[1:2] = []
    command = __main__.make_command(
        os.environ, lambda settings: app.run(settings, FailingFileSystem(folder))
    )
    sys.exit(command.main(sys.argv[1:], prog_name="tallymarkd", standalone_mode=False))


PATH = Path(__file__)

if __name__ == "__main__":
    main()
