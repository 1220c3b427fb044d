"""File systems of a test's own: mounted in its directory, always unmounted after."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.daemon import wait_for

FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2

MIB = 1024 * 1024
PAGE_BYTES = 4096
IMAGE_BYTES = {"ext4": 64 * MIB, "xfs": 320 * MIB}
"""The smallest that is of use: mkfs.xfs refuses less than 300 MiB. The file has holes."""

MKFS = {
    # Nothing is left for later, so that what is written is what the test has written.
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}


def cannot_mount(kind: str = "tmpfs") -> str:
    """Why a file system of this kind cannot be mounted here; empty when it can."""
    if os.geteuid() != 0:
        return f"cannot mount {kind}: not root"
    if kind in MKFS and shutil.which(MKFS[kind][0]) is None:
        return f"cannot make an {kind} file system: no {MKFS[kind][0]}"
    if kind not in Path("/proc/filesystems").read_text().split():
        return f"cannot mount {kind}: this kernel does not have it"
    return ""


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"


@contextmanager
def mounted(source: str, at: Path, *options: str) -> Iterator[Path]:
    """Mount something; unmounted after, even if somebody is still using it."""
    at.mkdir(parents=True, exist_ok=True)
    _run("mount", *options, source, str(at))
    try:
        yield at
    finally:
        unmount(at)


def unmount(at: Path) -> None:
    """Unmount what is mounted there, at once if it is free, else when it becomes so."""
    # The table has bind mounts of the same file system as well, which no number tells.
    if not at.exists() or str(at.resolve()) not in {
        each.mountpoint for each in psutil.disk_partitions(all=True)
    }:
        return
    if subprocess.run(["umount", str(at)], capture_output=True).returncode:
        _run("umount", "--lazy", str(at))


@contextmanager
def tmpfs(at: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in memory that is full at ``size_bytes``."""
    with mounted("tmpfs", at, "-t", "tmpfs", "-o", f"size={size_bytes}") as path:
        yield path


class LoopDisk:
    """A file system in a file, which can lose its power."""

    def __init__(self, kind: str, image: Path, at: Path) -> None:
        self.kind = kind
        self.image = image
        self.at = at

    def make(self, *options: str) -> None:
        """Make it, empty."""
        with self.image.open("wb") as file:
            file.truncate(IMAGE_BYTES[self.kind])
        _run(*MKFS[self.kind], *options, str(self.image))
        self.at.mkdir(exist_ok=True)

    def mount(self) -> None:
        """Mount it, with the journal's recovery if it lost its power before."""
        _run("mount", "-t", self.kind, "-o", "loop", str(self.image), str(self.at))

    def unmount(self) -> None:
        """Unmount it. Nobody may be using it any more."""
        wait_for(
            f"{self.at} to be free",
            lambda: subprocess.run(["umount", str(self.at)], capture_output=True).returncode == 0,
        )

    def cut_requests(self, bytes_max: int) -> None:
        """Have the device write no more than so many bytes at a time."""
        mounts = Path("/proc/mounts").read_text().splitlines()
        device = next(line.split()[0] for line in mounts if line.split()[1] == str(self.at))
        queue = Path("/sys/block") / Path(device).name / "queue"
        (queue / "max_sectors_kb").write_text(f"{bytes_max // 1024}")

    def cut_power(self) -> None:
        """From here on every operation fails, and what was not synced is gone."""
        fd = os.open(self.at, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)


@contextmanager
def loop_disk(kind: str, directory: Path, image: Path | None = None) -> Iterator[LoopDisk]:
    """A new file system, mounted at ``directory/disk``; unmounted after, whatever happened."""
    disk = LoopDisk(kind, image or directory / f"{kind}.img", directory / "disk")
    disk.make()
    try:
        disk.mount()
        yield disk
    finally:
        unmount(disk.at)


class Filler:
    """A file that takes the space of a file system."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "filler"

    def leave(self, bytes_free: int) -> None:
        """Take everything but so many bytes; with 0 down to the last page."""
        with self.path.open("ab") as file:
            found = os.statvfs(self.path.parent)
            take = found.f_bavail * found.f_frsize - bytes_free
            while take >= PAGE_BYTES:
                try:
                    size = os.fstat(file.fileno()).st_size
                    os.posix_fallocate(file.fileno(), size, take)
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017 - what else would it be
                    take //= 2
                else:
                    # What is said to be free is not exact: try for more until there is none.
                    take = 0 if bytes_free else PAGE_BYTES

    def give_back(self) -> None:
        """There is room again."""
        self.path.unlink(missing_ok=True)
