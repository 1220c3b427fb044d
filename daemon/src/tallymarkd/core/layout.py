"""Where everything stands in a state directory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

PROJECT_FILE = ".agent_metrics.json"
SERVER_FILE = "server.json"

SLUG_CHARS_MAX = 48
"""Readable part of a project directory's name; the hash behind it tells apart."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one state directory."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def projects(self) -> Path:
        return self.root / "projects"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def index(self) -> Path:
        return self.root / "index.sqlite"

    @property
    def recovery_report(self) -> Path:
        return self.root / "recovery.json"

    @property
    def recovery_history(self) -> Path:
        return self.root / "recovery-history.json"

    @property
    def restore_partial(self) -> Path:
        """Where a restore makes the new state."""
        return self.root / "restore.partial"

    @property
    def restore_ready(self) -> Path:
        """The new state on its way into its place."""
        return self.root / "restore.ready"

    def project(self, name: str) -> Path:
        """The directory of a project, by its name."""
        return self.projects / project_directory(name)


def project_directory(name: str) -> str:
    """A directory name that people recognise and that no two projects share."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:SLUG_CHARS_MAX] or "project"
    return f"{slug}-{blake2b(name.encode(), digest_size=5).hexdigest()}"
