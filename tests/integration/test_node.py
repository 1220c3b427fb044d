"""A client in another language, written from docs/PROTOCOL.md: the vectors, and the daemon."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tallymark import Client
from tests.daemon import DEADLINE_SECONDS, Daemon
from tests.fake_daemon import FakeDaemon

NODE = shutil.which("node")
HERE = Path(__file__).parent / "node"
WIRE = Path(__file__).parent.parent / "golden" / "wire.json"

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed (Debian: nodejs)")


class Node:
    """The client as a process: batches in, what the daemon says out."""

    def __init__(self, socket: Path) -> None:
        assert NODE is not None
        self._process = subprocess.Popen(
            [NODE, str(HERE / "deliver.mjs"), str(socket), "p"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.heard: list[dict[str, Any]] = []
        self.published = 0

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(json.loads(line))

    def publish(self, batches: int, events: int = 5) -> None:
        """Hand over that many batches at once."""
        assert self._process.stdin is not None
        for _ in range(batches):
            self.published += 1
            ids = [f"{self.published}-{number}" for number in range(events)]
            self.say([usage(event_id=each) for each in ids])

    def say(self, batch: list[dict[str, Any]]) -> None:
        """Hand over one batch."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(batch) + "\n")
        self._process.stdin.flush()

    def hear(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Wait until the daemon has said this."""
        while True:
            message = self._said.get(timeout=DEADLINE_SECONDS)
            self.heard.append(message)
            if message["type"] == kind and fields.items() <= message.items():
                return message

    def counts(self, name: str) -> int:
        """The sum of what acknowledgements say."""
        return sum(each.get(name, 0) for each in self.heard if each["type"] == "ack")

    def end(self) -> None:
        """Let it deliver what it has and say its goodbye."""
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._process.stdin.close()
        assert self._process.wait(DEADLINE_SECONDS) == 0, self._process.stderr.read()

    def kill(self) -> None:
        """It is gone after this."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def node(socket: Path) -> Iterator[Node]:
    client = Node(socket)
    try:
        yield client
    finally:
        client.kill()


def usage(**fields: Any) -> dict[str, Any]:
    return {
        "type": "usage",
        "agent_name": "noder",
        "at": "2026-01-02T03:04:05.678Z",
        "input_tokens": 70_000,
        "cache_read_tokens": 300,
        "estimated_cost_usd": 0.25,
        **fields,
    }


def test_the_vectors() -> None:
    assert NODE is not None
    done = subprocess.run(
        [NODE, str(HERE / "vectors.mjs"), str(WIRE)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    wire = json.loads(WIRE.read_text(encoding="utf-8"))
    said = json.loads(done.stdout)
    assert said["messages"] == len(wire["messages"])
    assert said["conversations"] == len(wire["conversations"])
    assert said["encoded"] > 5


def test_a_daemon_that_is_killed_has_everything_once(daemon: Daemon) -> None:
    with node(daemon.socket) as client:
        client.publish(20)
        client.hear("ack", through_seq=20)
        daemon.kill()
        client.publish(30)
        daemon.start()
        client.hear("welcome", durable_seq=20)
        client.publish(10)
        client.hear("ack", through_seq=60)
        # It stops while it is connected, and comes again.
        assert daemon.stop() == 0
        client.hear("goodbye")
        client.publish(5)
        daemon.start()
        client.hear("ack", through_seq=65)
        client.end()
    assert (client.counts("stored"), client.counts("duplicate")) == (325, 0)
    with Client("p", socket=daemon.socket) as asker:
        profile = asker.dump().agents["noder"]
    assert profile.input_tokens == 325 * 70_000
    assert profile.cache_read_tokens == 325 * 300
    assert profile.total_cost_usd == 325 * 0.25
    assert daemon.ledger["stored"] == 325


def test_a_bad_event_is_told_by_its_code(daemon: Daemon) -> None:
    with node(daemon.socket) as client:
        client.say([usage(), usage(input_tokens=-1), usage(cache_read_tokens=80_000), usage()])
        ack = client.hear("ack", through_seq=1)
        client.end()
    assert (ack["stored"], ack["rejected"]) == (2, 2)
    assert ack["reasons"] == {"invalid_field": 1, "cache_exceeds_input": 1}


def test_after_a_nack_the_same_bytes_are_sent_again(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        daemon.nacks = [("disk_full", 0.01), ("overloaded", 0.01)]
        with node(daemon.path) as client:
            client.publish(10)
            client.hear("ack", through_seq=10)
            client.end()
        nacks = [message["code"] for message in client.heard if message["type"] == "nack"]
        assert {"disk_full", "overloaded"} <= set(nacks)
        assert len(daemon.events) == 50
        assert daemon.wrong == []
        daemon.wait(lambda: daemon.producer.goodbye, "a Goodbye, which retires the producer")


def test_a_connection_that_breaks_before_the_acknowledgement(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        daemon.greeting_nack = ("warming_up", 0.01)
        daemon.cuts_before_ack = 3
        with node(daemon.path) as client:
            client.publish(10)
            client.hear("welcome", durable_seq=3)
            client.hear("ack", through_seq=10)
            client.end()
        assert len(daemon.events) == 50
        assert len(daemon.producers) == 1
        assert daemon.wrong == []


def test_who_is_refused_for_good_does_not_come_again(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        daemon.refusal = "wrong_user"
        with node(daemon.path) as client:
            client.publish(1)
            assert client.hear("refused")["code"] == "wrong_user"
            daemon.cut()
            client.end()
        assert len(daemon.hellos) == 1
