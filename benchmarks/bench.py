"""Durable events per second, and the time of one, beside SQLite and a raw fdatasync.

Everything in one run on one disk, interleaved, so that a slow moment hits all:

- *raw*: append the event's bytes to a file, fdatasync; one at a time.
- *sqlite*: WAL, synchronous=FULL, in process, executemany of 256 rows with the
  same 15 fields in each transaction.
- *tallymark bulk*: one client process; every event emitted, then one flush.
- *tallymark one*: one client process; emit(durable=True), one at a time.
- *record*: what the agent pays: one emit of a complete event, not waited for.
- *run*: likewise a whole ``with track_agent(…)``, with tokens, an artifact, and
  its beginning recorded too.

Events are built before the clock starts, for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from harness import Daemon
from tallymark import Client
from tallymark.events import RunEnd

ROUNDS = 5
BULK_EVENTS = 50_000
SINGLE_EVENTS = 400
SQLITE_BATCH_ROWS = 256
RECORDED = 5_000

BULK_RATIO_MIN = 1.5
SINGLE_RATIO_MAX = 1.6
COSTS_US_MAX = {"record": 4.0, "run": 20.0}

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def make_event(number: int) -> RunEnd:
    """A complete run with the 15 fields of the established form."""
    ended = BEGAN + timedelta(seconds=number)
    return RunEnd(
        event_id=f"0192f0c1a2b3c4d5e6f70000-{number:x}",
        at=ended,
        agent_name="coding",
        session_id="0192f0c1-0000-7000-8000-000000000002",
        ticket_key=f"AI-{number % 100}",
        started_at=ended - timedelta(seconds=60),
        ended_at=ended,
        duration_seconds=60.0,
        status="success" if number % 10 else "error",
        input_tokens=1000 + number % 500,
        output_tokens=2000,
        total_tokens=3000 + number % 500,
        estimated_cost_usd=0.033,
        artifacts=["commit:abc123", "file:src/main.py"],
        error_message="" if number % 10 else "the tests failed",
        model_used="claude-sonnet-4-5",
    )


def make_row(event: RunEnd) -> tuple[object, ...]:
    """The same 15 fields as a row."""
    return (
        event.event_id, event.agent_name, event.session_id, event.ticket_key,
        str(event.started_at), str(event.ended_at), event.duration_seconds, event.status,
        event.input_tokens, event.output_tokens, event.total_tokens, event.estimated_cost_usd,
        json.dumps(event.artifacts), event.error_message, event.model_used,
    )  # fmt: skip


class Bench:
    """One directory, one daemon, and the four things that are measured."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._daemon = Daemon(root / "state")
        self._next = 0

    def __enter__(self) -> Bench:
        self._daemon.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon.stop()

    def _events(self, count: int) -> list[RunEnd]:
        first, self._next = self._next, self._next + count
        return [make_event(number) for number in range(first, first + count)]

    def raw_us(self) -> float:
        """Median microseconds of one append and fdatasync."""
        payloads = [msgspec.msgpack.encode(event) for event in self._events(SINGLE_EVENTS)]
        path = self._root / "raw"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        took = []
        try:
            for payload in payloads:
                begun = time.perf_counter()
                os.write(fd, payload)
                os.fdatasync(fd)
                took.append(time.perf_counter() - begun)
        finally:
            os.close(fd)
            path.unlink()
        return statistics.median(took) * 1e6

    def sqlite_per_second(self) -> float:
        """Durable rows per second."""
        rows = [make_row(event) for event in self._events(BULK_EVENTS)]
        path = self._root / "sqlite.db"
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"CREATE TABLE events ({', '.join(f'c{n}' for n in range(15))})")
        insert = f"INSERT INTO events VALUES ({', '.join('?' * 15)})"
        begun = time.perf_counter()
        for at in range(0, len(rows), SQLITE_BATCH_ROWS):
            db.execute("BEGIN")
            db.executemany(insert, rows[at : at + SQLITE_BATCH_ROWS])
            db.execute("COMMIT")
        took = time.perf_counter() - begun
        db.close()
        for name in ("sqlite.db", "sqlite.db-wal", "sqlite.db-shm"):
            (self._root / name).unlink(missing_ok=True)
        return len(rows) / took

    def bulk_per_second(self) -> float:
        """Durable events per second through the daemon, pipelined."""
        events = self._events(BULK_EVENTS)
        with Client("bench", socket=self._daemon.socket, queue_events_max=BULK_EVENTS) as client:
            client.emit(self._events(1)[0], durable=True, timeout=10)
            emit = client.emit
            begun = time.perf_counter()
            for event in events:
                emit(event)
            client.flush(60)
            took = time.perf_counter() - begun
            _check_none_lost(client)
        return len(events) / took

    def single_us(self) -> float:
        """Median microseconds of one durable event."""
        events = self._events(SINGLE_EVENTS)
        took = []
        with Client("bench", socket=self._daemon.socket) as client:
            client.emit(self._events(1)[0], durable=True, timeout=10)
            for event in events:
                begun = time.perf_counter()
                client.emit(event, durable=True, timeout=10)
                took.append(time.perf_counter() - begun)
        return statistics.median(took) * 1e6

    def record_us(self) -> float:
        """Median microseconds of recording one complete event."""
        events = self._events(RECORDED)
        took = []
        with self._recorder() as client:
            emit = client.emit
            for event in events:
                begun = time.perf_counter()
                emit(event)
                took.append(time.perf_counter() - begun)
            client.flush(60)
            _check_none_lost(client)
        return statistics.median(took) * 1e6

    def run_us(self) -> float:
        """Median microseconds of a whole block."""
        took = []
        with self._recorder() as client:
            for _ in range(RECORDED):
                begun = time.perf_counter()
                with client.track_agent("coding", ticket_key="AI-46", model="gpt-5") as run:
                    run.add_tokens(input_tokens=1000, output_tokens=2000)
                    run.add_artifact("commit:abc123")
                took.append(time.perf_counter() - begun)
            client.flush(60)
            _check_none_lost(client)
        return statistics.median(took) * 1e6

    def _recorder(self) -> Client:
        """A client that is connected, and has room for all that is recorded."""
        client = Client("bench", socket=self._daemon.socket, queue_events_max=BULK_EVENTS)
        client.emit(self._events(1)[0], durable=True, timeout=10)
        return client


def _check_none_lost(client: Client) -> None:
    lost = sum(client.stats().dropped.values())
    if lost:
        raise RuntimeError(f"{lost} events were dropped: the figure would be false")


MEASURES: dict[str, tuple[str, Callable[[Bench], float]]] = {
    "raw": ("raw append + fdatasync, p50, µs", Bench.raw_us),
    "sqlite": ("SQLite FULL, 256 a transaction, events/s", Bench.sqlite_per_second),
    "bulk": ("tallymark, pipelined, events/s", Bench.bulk_per_second),
    "single": ("tallymark, one durable event, p50, µs", Bench.single_us),
    "record": ("recording one complete event, p50, µs", Bench.record_us),
    "run": ("a whole track_agent block, p50, µs", Bench.run_us),
}


def measure(root: Path, rounds: int) -> dict[str, list[float]]:
    """Every measure, ``rounds`` times, in turn. The first round of each is not kept."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    with Bench(root) as bench:
        for number in range(rounds + 1):
            for name, (_, take) in MEASURES.items():
                value = take(bench)
                if number:
                    found[name].append(value)
            say(f"round {number} of {rounds}" if number else "warm-up")
    return found


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def ratios(found: dict[str, list[float]]) -> dict[str, list[float]]:
    """Ratios taken round by round, so that both sides had the same moment."""
    return {
        "bulk / sqlite": [b / s for b, s in zip(found["bulk"], found["sqlite"], strict=True)],
        "single / raw": [s / r for s, r in zip(found["single"], found["raw"], strict=True)],
    }


def table(found: dict[str, list[float]], ratio: dict[str, list[float]]) -> str:
    """Medians with their spread."""
    rows: list[tuple[str, ...]] = [("", "median", "lowest", "highest")]
    for name, (title, _) in MEASURES.items():
        values = found[name]
        digits = 2 if name in COSTS_US_MAX else 0
        bar = f" (at most {COSTS_US_MAX[name]:g})" if name in COSTS_US_MAX else ""
        rows.append((title + bar, *(f"{v:,.{digits}f}" for v in _summary(values))))
    bars = {"bulk / sqlite": f"at least {BULK_RATIO_MIN}",
            "single / raw": f"at most {SINGLE_RATIO_MAX}"}  # fmt: skip
    for name, values in ratio.items():
        rows.append((f"{name} ({bars[name]})", *(f"{v:.2f}" for v in _summary(values))))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    return "\n".join(
        row[0].ljust(widths[0]) + "".join("  " + row[n].rjust(widths[n]) for n in (1, 2, 3))
        for row in rows
    )


def _summary(values: list[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def main() -> int:
    """Exit 0 when all bars are met, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    parser.add_argument(
        "--dir", type=Path, default=Path.cwd(), help="a directory on the disk to measure"
    )
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix=".bench-", dir=args.dir))
    try:
        found = measure(root, args.rounds)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    ratio = ratios(found)
    print(table(found, ratio))
    figures = {"figures": found, "ratios": ratio, "bulk_events": BULK_EVENTS,
               "single_events": SINGLE_EVENTS, "python": sys.version.split()[0]}  # fmt: skip
    text = json.dumps(figures, indent=2)
    if args.json:
        args.json.write_text(text + "\n")
    else:
        print(text)
    bulk = statistics.median(ratio["bulk / sqlite"])
    single = statistics.median(ratio["single / raw"])
    cheap = all(statistics.median(found[name]) <= most for name, most in COSTS_US_MAX.items())
    return 0 if bulk >= BULK_RATIO_MIN and single <= SINGLE_RATIO_MAX and cheap else 1


if __name__ == "__main__":
    sys.exit(main())
