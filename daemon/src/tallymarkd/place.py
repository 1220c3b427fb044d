"""Whether a directory is on a file system that keeps the promises of fsync."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from tallymark.errors import StorageError

NETWORK_TYPES = frozenset("nfs nfs4 9p cifs smb3 smbfs afs ceph fuse.sshfs".split())
"""File systems whose locks and syncs depend on another machine."""


def refuse_unsafe(directory: Path) -> None:
    """Raises ``StorageError`` for a file system on which durable means nothing."""
    path = os.path.realpath(directory)
    mounts = [
        part
        for part in psutil.disk_partitions(all=True)
        if path == part.mountpoint or path.startswith(part.mountpoint.rstrip("/") + "/")
    ]
    if not mounts:
        return
    mount = max(enumerate(mounts), key=lambda found: (len(found[1].mountpoint), found[0]))[1]
    options = mount.opts.split(",")
    if mount.fstype in NETWORK_TYPES:
        what = f"it is on {mount.fstype} (mounted at {mount.mountpoint})"
    elif mount.fstype == "overlay" and "volatile" in options:
        what = f"it is on a volatile overlay (mounted at {mount.mountpoint})"
    else:
        return
    raise StorageError(
        f"cannot keep state in {directory}: {what}, where nothing can be made durable; "
        "choose a directory on a local disk with --state-dir"
    )
