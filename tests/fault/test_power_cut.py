"""A file system without power: some of what ``make torture`` does in full."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fault import mounts, power_cut
from tests.fault.mounts import Filler, loop_disk, tmpfs


def needs(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(mounts.cannot_mount(kind)), reason=mounts.cannot_mount(kind))


KINDS = [pytest.param(kind, marks=needs(kind)) for kind in power_cut.KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_some_power_cuts_lose_and_double_nothing(tmp_path: Path, kind: str) -> None:
    outcome = power_cut.ordeal(tmp_path, cuts=2, kinds=(kind,))
    assert outcome.passed, outcome.lines()
    assert outcome.tried == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_instrument_loses_what_was_not_synced_and_that_alone(tmp_path: Path, kind: str) -> None:
    with loop_disk(kind, tmp_path) as disk:
        for name in ("synced", "not-synced"):
            fd = os.open(disk.at / name, os.O_RDWR | os.O_CREAT)
            os.write(fd, b"x" * 4096)
            if name == "synced":
                os.fsync(fd)
                directory = os.open(disk.at, os.O_RDONLY)
                os.fsync(directory)
                os.close(directory)
            os.close(fd)
        disk.cut_power()
        with pytest.raises(OSError, match="Input/output"):
            (disk.at / "after").write_bytes(b"x")
        disk.unmount()
        disk.mount()
        assert (disk.at / "synced").read_bytes() == b"x" * 4096
        lost = disk.at / "not-synced"
        assert not lost.exists() or lost.read_bytes() != b"x" * 4096
    assert not disk.at.is_mount()


@needs("tmpfs")
def test_a_filled_disk_has_no_room_and_then_has(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", mounts.MIB) as disk:
        filler = Filler(disk)
        filler.leave(0)
        with pytest.raises(OSError, match="No space"):
            (disk / "more").write_bytes(b"x")
        filler.give_back()
        (disk / "more").write_bytes(b"x")
    assert not (tmp_path / "disk").is_mount()
