from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tallymark.errors import StorageError
from tallymarkd.place import NETWORK_TYPES, refuse_unsafe


class Mounts:
    """What the system says is mounted where."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._found = [SimpleNamespace(mountpoint="/", fstype="ext4", opts="rw,relatime")]
        monkeypatch.setattr(psutil, "disk_partitions", self._partitions)

    def _partitions(self, all: bool = False) -> list[SimpleNamespace]:  # noqa: A002 - psutil's name
        assert all, "network file systems are only in the whole list"
        return self._found

    def add(self, place: Path | str, fstype: str, opts: str = "rw") -> None:
        self._found.append(SimpleNamespace(mountpoint=str(place), fstype=fstype, opts=opts))


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Mounts:
    return Mounts(monkeypatch)


def test_the_real_file_system_of_the_tests_is_looked_at(tmp_path: Path) -> None:
    assert psutil.disk_partitions(all=True)

    refuse_unsafe(tmp_path)


@pytest.mark.parametrize("fstype", sorted(NETWORK_TYPES))
def test_a_file_system_of_another_machine_is_refused(
    mounts: Mounts, tmp_path: Path, fstype: str
) -> None:
    mounts.add(tmp_path, fstype)

    with pytest.raises(StorageError) as caught:
        refuse_unsafe(tmp_path / "state" / "not yet there")

    message = str(caught.value)
    assert message.startswith(f"cannot keep state in {tmp_path}/state/not yet there: it is on")
    assert fstype in message
    assert str(tmp_path) in message
    assert "--state-dir" in message


@pytest.mark.parametrize(
    ("opts", "refused"), [("rw,volatile", True), ("rw,lowerdir=/volatile", False)]
)
def test_only_a_volatile_overlay_is_refused(
    mounts: Mounts, tmp_path: Path, opts: str, refused: bool
) -> None:
    mounts.add(tmp_path, "overlay", opts)

    if refused:
        with pytest.raises(StorageError, match="volatile overlay"):
            refuse_unsafe(tmp_path)
    else:
        refuse_unsafe(tmp_path)


def test_the_innermost_mount_counts(mounts: Mounts, tmp_path: Path) -> None:
    mounts.add(tmp_path, "nfs4")
    mounts.add(tmp_path / "local", "ext4")
    mounts.add(tmp_path / "local" / "far", "nfs")

    refuse_unsafe(tmp_path / "local" / "state")
    for bad in (tmp_path / "state", tmp_path / "local" / "far" / "state"):
        with pytest.raises(StorageError):
            refuse_unsafe(bad)


def test_the_last_of_two_mounts_at_one_place_counts(mounts: Mounts, tmp_path: Path) -> None:
    mounts.add(tmp_path, "nfs4")
    mounts.add(tmp_path, "xfs")

    refuse_unsafe(tmp_path)


def test_a_name_that_only_begins_alike_is_another_place(mounts: Mounts, tmp_path: Path) -> None:
    mounts.add(tmp_path / "state", "nfs4")

    refuse_unsafe(tmp_path / "state-of-mine")
    with pytest.raises(StorageError):
        refuse_unsafe(tmp_path / "state")


def test_a_link_is_followed(mounts: Mounts, tmp_path: Path) -> None:
    mounts.add(tmp_path / "far", "nfs4")
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")

    with pytest.raises(StorageError):
        refuse_unsafe(tmp_path / "near" / "state")


def test_a_network_file_system_at_the_root(mounts: Mounts, tmp_path: Path) -> None:
    mounts.add("/", "9p")

    with pytest.raises(StorageError):
        refuse_unsafe(tmp_path)


def test_where_nothing_is_known_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [])

    refuse_unsafe(tmp_path)
