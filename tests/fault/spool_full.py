"""Spools that cannot be written: the disk is full, or there is no place. Needs root, to mount."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tallymark import Client
from tallymark.adoption import Adopter
from tallymark.errors import FlushTimeout
from tallymark.events import RunEnd
from tallymark.fs import OsFileSystem
from tallymark.questions import ask_health
from tallymark.spool import SUFFIX
from tests.daemon import DEADLINE_SECONDS, wait_for
from tests.fault.spool_scene import Scene
from tests.fault.spooling import adopt

FULL_BYTES = 512 * 1024
EVENTS = 4000
QUEUE_EVENTS = 1000
FLUSH_SECONDS = 1.0
"""Long enough for a write to the spool; nothing depends on it."""

Keep = list[str]


@contextmanager
def small_disk(path: Path, size_bytes: int = FULL_BYTES) -> Iterator[Path]:
    """A file system of its own."""
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tallymark", str(path)],
        check=True,
    )
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def _client(scene: Scene, spools: Path) -> Client:
    """One for which the daemon is down until its socket has this name."""
    return Client("p", socket=scene.directory / "s", spool_dir=spools,
                  queue_events_max=QUEUE_EVENTS)  # fmt: skip


def _record(scene: Scene, client: Client) -> Keep:
    """More than there is room for; gives what was taken."""
    taken = []
    room = True
    for number in range(EVENTS):
        name = f"{scene.directory.name}-{number}"
        if client.emit(RunEnd(event_id=name, agent_name="a", error_message="x" * 300)):
            taken.append(name)
        if room and number % 100 == 99:
            try:
                client.flush(FLUSH_SECONDS)
            except FlushTimeout:
                room = False
    return taken


def _settle(scene: Scene, client: Client, taken: Keep) -> None:
    """The daemon comes: what was taken is there, the rest is counted as dropped and skipped."""
    (scene.directory / "s").symlink_to(scene.daemon.socket)
    client.emit(RunEnd(event_id=f"{scene.directory.name}-last", agent_name="a"),
                durable=True, timeout=DEADLINE_SECONDS)  # fmt: skip
    wait_for("the end of the spool", lambda: client.stats().spooled == 0)
    taken.append(f"{scene.directory.name}-last")
    dropped = EVENTS + 1 - len(taken)
    tally = scene.tally
    tally.check("something was dropped", dropped > 0, True)
    tally.check("dropped", client.stats().dropped, {"queue_full": dropped})
    client.close(DEADLINE_SECONDS)
    tally.check("acknowledged", client.stats().acknowledged, len(taken))
    tally.check("stored", scene.more("stored"), len(taken))
    tally.check("skipped", scene.more("skipped"), dropped)


def disk_full(scene: Scene) -> Keep:
    """The spool fills its disk: what was taken before is kept, the rest counted."""
    with small_disk(scene.spools) as spools:
        client = _client(scene, spools)
        taken = _record(scene, client)
        scene.tally.check("something was spooled", client.stats().spooled > 0, True)
        _settle(scene, client, taken)
        scene.tally.check("spools", scene.names(), [])
    return taken


def spool_full(scene: Scene) -> Keep:
    """The spool has its most bytes."""
    client = Client("p", socket=scene.directory / "s", spool_dir=scene.spools,
                    queue_events_max=QUEUE_EVENTS, spool_bytes_max=FULL_BYTES)  # fmt: skip
    taken = _record(scene, client)
    size = sum(path.stat().st_size for path in scene.spools.iterdir())
    scene.tally.check("the spool is within its bound", FULL_BYTES // 2 < size <= FULL_BYTES, True)
    _settle(scene, client, taken)
    return taken


def no_place(scene: Scene) -> Keep:
    """The directory cannot be made: everything stays in memory."""
    (scene.directory / "file").touch()
    client = _client(scene, scene.directory / "file" / "spool")
    taken = _record(scene, client)
    scene.tally.check("nothing was spooled", client.stats().spooled, 0)
    scene.tally.check("taken", len(taken), QUEUE_EVENTS)
    _settle(scene, client, taken)
    return taken


def adopted_on_a_full_disk(scene: Scene) -> Keep:
    """What makes room again must not need any."""
    with small_disk(scene.spools) as spools:
        left = [scene.leave(3, fill_page=True) for _ in range(3)]
        with (spools / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        scene.tally.check("spools on a full disk", scene.adopt(), (3, 0))
        scene.tally.check("left on a full disk", scene.names(), ["filler"])
    return [name for each in left for name in each.events]


class Unremovable(OsFileSystem):
    """Nothing can be unlinked."""

    def unlink(self, path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def kept_by_its_owner(scene: Scene) -> Keep:
    """It cannot be removed: its producer must be known for as long as it is there."""
    client = _client(scene, scene.spools)
    client._delivery._fs = Unremovable()
    names = [f"kept-{number}" for number in range(20)]
    for name in names[:10]:
        client.emit(RunEnd(event_id=name, agent_name="a"))
    client.flush(DEADLINE_SECONDS)
    (scene.directory / "s").symlink_to(scene.daemon.socket)
    for name in names[10:]:
        client.emit(RunEnd(event_id=name, agent_name="a"))
    client.emit(RunEnd(event_id="kept-last", agent_name="a"), durable=True,
                timeout=DEADLINE_SECONDS)  # fmt: skip
    scene.tally.check("kept", len(scene.names()), 1)
    scene.tally.check("its lock", adopt(scene.spools, scene.directory / "s").spools, 0)
    client.close(DEADLINE_SECONDS)
    # Whatever it said at its end is in the journal before this.
    ask_health([scene.daemon.socket], deep=True, timeout_seconds=DEADLINE_SECONDS)
    scene.tally.check("adopted", adopt(scene.spools, scene.directory / "s").spools, 1)
    scene.tally.check("received", scene.more("received"), 21)
    scene.tally.check("left", scene.names(), [])
    return [*names, "kept-last"]


def kept_by_an_adopter(scene: Scene) -> Keep:
    """The next round, of the same process, has another try."""
    left = scene.leave(2)
    adopter = Adopter(Unremovable(), scene.spools, [scene.daemon.socket], client="ordeal/1")
    for _ in range(2):
        scene.tally.check("left by a round", len(adopter.run().left), 1)
    scene.tally.check("the next adopter", scene.adopt(), (1, 0))
    scene.tally.check("received", scene.more("received"), len(left.events))
    scene.tally.check("left", scene.names(), [])
    return left.events


class NameNotSynced(OsFileSystem):
    """A spool's name cannot be made durable."""

    def sync_dir(self, path: Path) -> None:
        if any(each.suffix == SUFFIX for each in path.iterdir()):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        super().sync_dir(path)


def name_not_synced(scene: Scene) -> Keep:
    """No spool is left for others to find, while its producer goes on from memory."""
    client = _client(scene, scene.spools)
    client._delivery._fs = NameNotSynced()
    names = [f"unnamed-{number}" for number in range(20)]
    for name in names:
        client.emit(RunEnd(event_id=name, agent_name="a"))
    with suppress(FlushTimeout):
        client.flush(FLUSH_SECONDS)
    scene.tally.check("left", scene.names(), [])
    (scene.directory / "s").symlink_to(scene.daemon.socket)
    scene.tally.check("adopted", adopt(scene.spools, scene.directory / "s").spools, 0)
    client.flush(DEADLINE_SECONDS)
    client.close(DEADLINE_SECONDS)
    scene.tally.check("received", scene.more("received"), len(names))
    return names


def a_little_room(scene: Scene) -> Keep:
    """Not everything fits: as much as does is spooled, the rest waits in memory."""
    client = Client("p", socket=scene.directory / "s", spool_dir=scene.spools,
                    batch_events_max=50, queue_events_max=QUEUE_EVENTS,
                    spool_bytes_max=FULL_BYTES // 8)  # fmt: skip
    names = [f"little-{number}" for number in range(QUEUE_EVENTS)]
    for name in names:
        client.emit(RunEnd(event_id=name, agent_name="a", error_message="x" * 300))
    with suppress(FlushTimeout):
        client.flush(FLUSH_SECONDS)
    stats = client.stats()
    some = 0 < stats.spooled < QUEUE_EVENTS
    scene.tally.check("some are spooled", some, True)
    scene.tally.check("all are there", stats.spooled + stats.unacknowledged, QUEUE_EVENTS)
    client.close(0.0)
    scene.tally.check("adopted", adopt(scene.spools, scene.daemon.socket).spools, 0)
    (scene.directory / "s").symlink_to(scene.daemon.socket)
    scene.tally.check("adopted", adopt(scene.spools, scene.directory / "s").spools, 1)
    scene.tally.check("received", scene.more("received"), stats.spooled)
    return names[: stats.spooled]


FULL_SCENES: Mapping[str, Callable[[Scene], Keep]] = {
    each.__name__: each
    for each in (
        disk_full,
        spool_full,
        no_place,
        adopted_on_a_full_disk,
        kept_by_its_owner,
        kept_by_an_adopter,
        name_not_synced,
        a_little_room,
    )
}
