"""The first program of a machine: it lays a root that is a copy of the host's, and boots it.

``unshare --mount --pid --fork --kill-child --mount-proc python boot.py PLAN`` with a
``Plan`` as JSON. What it mounts is seen by nobody else and goes with its last process,
and that process goes with this one: nothing is left when a test run is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

PATH = Path(__file__)

UNIT = "basic.target"
"""Beyond it the guest would start every service that is installed on the host."""

MASKED = (
    "systemd-timesyncd.service",
    "systemd-update-utmp.service",
    # The host's daily jobs, which would be due now.
    "timers.target",
)


@dataclass(frozen=True)
class Plan:
    """A machine to boot. ``binds`` are folders that it sees, read only, and where."""

    name: str
    base: str
    cgroups: list[str]
    binds: dict[str, str]
    libraries: str
    """Where the guest finds shared libraries besides the usual places; may be empty."""


def main(plan: Plan) -> None:
    """Become the machine's keeper."""
    for cgroup in plan.cgroups:
        (Path(cgroup) / "cgroup.procs").write_text("0")
    root = _root(Path(plan.base))
    _prepare(root, plan.libraries)
    # What nspawn keeps of its machines goes with this one.
    _mount("tmpfs", Path("/run"), "-t", "tmpfs")
    environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
    os.execvpe("systemd-nspawn", list(_command(plan, root)), environment)


def _command(plan: Plan, root: Path) -> tuple[str, ...]:
    return (
        *("systemd-nspawn", "--quiet", "--directory", str(root), "--machine", plan.name),
        *("--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off"),
        *("--timezone=off", "--private-network", "--console=pipe"),
        *(f"--bind-ro={source}:{target}" for source, target in plan.binds.items()),
        *("--boot", f"systemd.unit={UNIT}"),
    )


def _root(base: Path) -> Path:
    """The host's root; what is changed there is kept in memory."""
    _mount("tmpfs", base, "-t", "tmpfs")
    root, upper, work = (base / name for name in ("root", "upper", "work"))
    for folder in (root, upper, work):
        folder.mkdir()
    layers = f"lowerdir=/,upperdir={upper},workdir={work}"
    _mount("overlay", root, "-t", "overlay", "-o", layers)
    return root


def _prepare(root: Path, libraries: str) -> None:
    """Take away what belongs to the host alone."""
    etc = root / "etc"
    for name in ("machine-id", "fstab"):
        (etc / name).unlink(missing_ok=True)
        (etc / name).touch()
    # The rule empties /tmp, which the guest has anew.
    _mask(etc / "tmpfiles.d" / "tmp.conf")
    for unit in MASKED:
        _mask(etc / "systemd" / "system" / unit)
    if libraries:
        # A name that sorts first: the host may have another build of the same library.
        (etc / "ld.so.conf.d" / "00-tested.conf").write_text(libraries + "\n")


def _mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/null")


def _mount(source: str, at: Path, *options: str) -> None:
    subprocess.run(["mount", *options, source, str(at)], check=True)


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Plan))
