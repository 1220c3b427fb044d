"""A control group of a machine's own in every hierarchy, and its end."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.daemon import wait_for

PREFIX = "tallymark-test-"
"""Followed by the pid of the test run that made it."""


def hierarchies() -> list[Path]:
    """Where this host has mounted control groups."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(mount[1]) for mount in mounts if mount[2] in ("cgroup", "cgroup2")]


def make(name: str) -> list[Path]:
    """A group of this name in each hierarchy, empty."""
    made = []
    for hierarchy in hierarchies():
        group = hierarchy / name
        group.mkdir()
        made.append(group)
        # The first version has groups begin without a processor and without memory.
        for given in ("cpuset.cpus", "cpuset.mems"):
            if hierarchy.joinpath(given).exists() and not (group / given).read_text().strip():
                (group / given).write_text(hierarchy.joinpath(given).read_text())
    return made


def remove(name: str) -> None:
    """Remove the groups of this name as soon as their processes have ended."""
    for hierarchy in hierarchies():
        wait_for(f"{hierarchy / name} to be empty", lambda: _removed(hierarchy / name))  # noqa: B023


def remove_forgotten() -> None:
    """Remove the groups of test runs that were killed: their processes went with them."""
    for hierarchy in hierarchies():
        for group in hierarchy.glob(f"{PREFIX}*"):
            owner = re.match(rf"{PREFIX}(\d+)", group.name)
            if owner and not Path("/proc", owner[1]).exists():
                _removed(group)


def _removed(group: Path) -> bool:
    if not group.exists():
        return True
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()
    except OSError:
        return False
    return True


__all__ = ["PREFIX", "hierarchies", "make", "remove", "remove_forgotten"]
