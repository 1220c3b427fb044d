"""Spools that are torn, rotten, somebody else's, or no spools: what becomes of each.

Each function is one scene. It gives the ids of the events that must be stored, and
tells the scene's tally of everything that is not as promised.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tallymark.adoption import DAMAGED_SUFFIX
from tallymark.spool import SUFFIX
from tallymark.spool_header import FORMAT, MAGIC
from tests.fault.spool_scene import BATCH_EVENTS, Scene, image
from tests.fault.spooling import adopt, live
from tests.fault.spooling_agent import Plan

NOBODY = 65534

Keep = list[str]


def torn(scene: Scene) -> Keep:
    """Cut anywhere in the last record: what is before it arrives, nothing is told as lost."""
    keep: Keep = []
    rng = random.Random(1)
    for _ in range(12):
        left = scene.leave(3)
        begin, end = left.records()[-1]
        left.cut(rng.randrange(begin + 1, end))
        keep += [name for batch in left.batches[:-1] for name in batch]
    scene.tally.check("torn spools", scene.adopt(), (12, 0))
    scene.tally.check("skipped of torn spools", scene.more("skipped"), 0)
    scene.tally.check("torn spools left", scene.names(), [])
    return keep


def rotten_payload(scene: Scene) -> Keep:
    """First, middle or last: the seq and its events are named, and no others are missing."""
    keep: Keep = []
    for number in (0, 2, 5):
        left = scene.leave(6)
        left.damage_payload(number)
        scene.tally.check("rotten spool", scene.adopt(), (1, 0))
        told = [("spool_damaged", number + 1, number + 1, BATCH_EVENTS)]
        scene.tally.check(f"told of payload {number}", scene.losses(left.producer), told)
        keep += [name for n, batch in enumerate(left.batches) if n != number for name in batch]
    scene.tally.check("skipped of rotten payloads", scene.more("skipped"), 3 * BATCH_EVENTS)
    return keep


def rotten_header(scene: Scene) -> Keep:
    """Of a record that others follow: its seq is named; how many events is not known."""
    keep: Keep = []
    for number in (0, 2):
        left = scene.leave(6)
        left.damage_header(number)
        scene.tally.check("rotten spool", scene.adopt(), (1, 0))
        told = [("spool_damaged", number + 1, number + 1, 0)]
        scene.tally.check(f"told of header {number}", scene.losses(left.producer), told)
        keep += [name for n, batch in enumerate(left.batches) if n != number for name in batch]
    return keep


def rotten_stretch(scene: Scene) -> Keep:
    """Two records and the header of a third are gone."""
    keep: Keep = []
    for first in (0, 2):
        left = scene.leave(8, first_seq=5)
        records = left.records()
        with left.path.open("r+b") as file:
            file.seek(records[first][0])
            file.write(b"\xff" * (records[first + 2][0] + 40 - records[first][0]))
        scene.tally.check("rotten stretch", scene.adopt(), (1, 0))
        told = [("acknowledged_before", 1, 4, 0), ("spool_damaged", first + 5, first + 7, 0)]
        scene.tally.check("told", scene.losses(left.producer), told)
        whole = [*left.batches[:first], *left.batches[first + 3 :]]
        keep += [name for batch in whole for name in batch]
    return keep


def rotten_across_the_mark(scene: Scene) -> Keep:
    """The daemon has some of what cannot be read any more: only the rest is lost."""
    left = scene.leave(8)
    records, data = left.records(), left.path.read_bytes()
    left.cut(records[2][1])
    plan = Plan(name="adopter", socket=str(scene.daemon.socket), spool_dir=str(scene.spools),
                adopts=True, kill="unlink", kill_at=1, kill_after=True)  # fmt: skip
    scene.tally.check("the killed adopter", live(plan).code, -9)
    left.path.write_bytes(data)
    for number in (1, 2, 3, 4):
        left.damage(records[number][0] + 30)
    scene.tally.check("adopted", scene.adopt(), (1, 0))
    scene.tally.check("told", scene.losses(left.producer), [("spool_damaged", 4, 5, 0)])
    return [name for n, batch in enumerate(left.batches) if n not in (3, 4) for name in batch]


def damaged_head(scene: Scene) -> Keep:
    """Nobody can tell whose it is: it is kept, as it is, under another name."""
    kept = {}
    for at in (0, 9, 20, 60):
        left = scene.leave(2)
        left.damage(at)
        kept[left.path.with_suffix(DAMAGED_SUFFIX)] = left.path.read_bytes()
    empty = scene.spools / f"empty{SUFFIX}"
    empty.touch()
    kept[empty.with_suffix(DAMAGED_SUFFIX)] = b""
    scene.adopt()
    found = {path: path.read_bytes() for path in scene.spools.iterdir()}
    scene.tally.check("damaged spools", found, kept)
    return []


def newer(scene: Scene) -> Keep:
    """A newer format is refused before anything else is believed, and not touched."""
    left = scene.leave(2)
    version = struct.pack("<8sHH", MAGIC, FORMAT + 1, FORMAT + 1)
    with left.path.open("r+b") as file:
        file.write(version + struct.pack("<I", zlib.crc32(version)))
    _untouched(scene, [left.path], left=1)
    return []


def another_users(scene: Scene) -> Keep:
    """Needs root, to give a file away."""
    left = scene.leave(2)
    os.chown(left.path, NOBODY, NOBODY)
    mine = scene.leave(2)
    before = list(image(left.path))
    scene.tally.check("beside another user's", scene.adopt(), (1, 1))
    scene.tally.check("another user's", list(image(left.path)), before)
    return mine.events


def another_servers(scene: Scene) -> Keep:
    """Bound to another daemon, or for a daemon at another socket."""
    bound = scene.leave(2, server_id="0194a0b2-7c4d-4e5f-8a6b-3c2d1e0f9a8b")
    elsewhere = scene.leave(2, sockets=("/nowhere/tallymark.sock",))
    _untouched(scene, [bound.path, elsewhere.path], left=2)
    return []


def no_spools(scene: Scene) -> Keep:
    """What only has a spool's name."""
    target = scene.leave(2).path.rename(scene.directory / "target")
    names = ["link", "folder", "fifo", "socket", "dangling"]
    paths = {name: scene.spools / f"{name}{SUFFIX}" for name in names}
    paths["link"].symlink_to(target)
    paths["dangling"].symlink_to(scene.directory / "absent")
    paths["folder"].mkdir()
    os.mkfifo(paths["fifo"])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(paths["socket"]))
        _untouched(scene, [target, *paths.values()], left=5)
    (scene.spools / "readme.txt").touch()
    return []


def _untouched(scene: Scene, paths: list[Path], *, left: int) -> None:
    before = [list(image(path)) for path in paths]
    scene.tally.check("what is not to be delivered", scene.adopt(), (0, left))
    scene.tally.check("its files", [list(image(path)) for path in paths], before)


def two_adopters(scene: Scene) -> Keep:
    """At once: each spool is delivered by one of them."""
    left = [scene.leave(3) for _ in range(30)]
    found: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(adopt(scene.spools, scene.daemon.socket).spools)
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scene.tally.check("spools of two adopters", sum(found), len(left))
    scene.tally.check("received of two adopters", scene.more("received"), 30 * 3 * BATCH_EVENTS)
    scene.tally.check("left of two adopters", scene.names(), [])
    return [name for each in left for name in each.events]


def lost_acknowledgement(scene: Scene) -> Keep:
    """The daemon has it all, and nobody knows: it is delivered again and counted once."""
    left = scene.leave(4)
    plan = Plan(name="adopter", socket=str(scene.daemon.socket), spool_dir=str(scene.spools),
                adopts=True, kill="unlink", kill_at=1)  # fmt: skip
    scene.tally.check("the killed adopter", live(plan).code, -9)
    scene.tally.check("its spool", scene.names(), [left.path.name])
    scene.tally.check("received", scene.more("received"), len(left.events))
    scene.tally.check("the next adopter", scene.adopt(), (1, 0))
    scene.tally.check("received in all", scene.more("received"), len(left.events))
    scene.tally.check("spools", scene.names(), [])
    return left.events


def known_before(scene: Scene) -> Keep:
    """The first batches were acknowledged in its owner's life: no loss."""
    left = scene.leave(3, first_seq=8)
    scene.tally.check("a spool that begins late", scene.adopt(), (1, 0))
    told = [("acknowledged_before", 1, 7, 0)]
    scene.tally.check("told", scene.losses(left.producer), told)
    scene.tally.check("skipped", scene.more("skipped"), 0)
    return left.events


SCENES: Mapping[str, Callable[[Scene], Keep]] = {
    each.__name__: each
    for each in (
        torn, rotten_payload, rotten_header, rotten_stretch, rotten_across_the_mark,
        damaged_head, newer, another_users,
        another_servers, no_spools, two_adopters, lost_acknowledgement, known_before,
    )
}  # fmt: skip
