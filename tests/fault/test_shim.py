"""Nothing writes around the file system's interface, and it does what it says.

The crash states are built from what the interface saw. So what it saw is held
against the system calls that strace saw: the same calls, in the same order.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.fault.recorded import Call

CHANGING = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,fallocate,"
    "fsync,fdatasync,sync,syncfs,sync_file_range,msync,rename,renameat,renameat2,link,linkat,"
    "symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,mknod,mknodat,sendfile,"
    "copy_file_range"
)  # fmt: skip
"""Every system call that can change a file, a name, or what is durable."""

LINE = re.compile(r"^\d+ +(?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
PATH = re.compile(r'"([^"]*)"|<(/[^>]*)>')


def calls_seen(trace: str, root: Path) -> Iterator[Call]:
    """The calls of a trace that concern the directory, but for SQLite's own files."""
    for line in trace.splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        paths = [Path(name or fd) for name, fd in PATH.findall(found["arguments"])]
        inside = [path for path in paths if path.is_relative_to(root.parent)]
        if inside and not any(path.name.startswith("index.sqlite") for path in inside):
            yield from _call(found["call"], found["arguments"], inside)


NAMED = {"rename": "replace", "link": "link", "unlink": "unlink", "mkdir": "mkdir"}


def _call(call: str, arguments: str, paths: list[Path]) -> Iterator[Call]:
    numbers = [int(word) for word in arguments.split(", ") if word.lstrip("-").isdigit()]
    names = [path.name for path in paths]
    match call:
        case "openat":
            if "O_CREAT" in arguments:
                yield ["create", names[-1]]
        case "pwrite64":
            yield ["write", numbers[1], numbers[0]]
        case "fallocate":
            yield ["allocate", numbers[-2], numbers[-1]]
        case "ftruncate":
            yield ["truncate", numbers[0]]
        case "fdatasync" | "fsync":
            yield from _sync(call, paths[0])
        case _:
            # What has no name here is a call that nothing of ours makes.
            yield [NAMED.get(call, call), *names]


def _sync(call: str, path: Path) -> Iterator[Call]:
    if not path.is_dir():
        yield ["sync_data" if call == "fdatasync" else "sync"]
    elif call == "fsync":  # SQLite uses the other one for directories, and we never do
        yield ["sync_dir", path.name]


@pytest.mark.timeout(300)
def test_the_interface_sees_every_system_call_and_no_other(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    root, trace = tmp_path / "state", tmp_path.with_name(tmp_path.name + ".trace")
    try:
        done = subprocess.run(
            [strace, "-f", "-y", "-s", "0", "-e", f"trace={CHANGING}", "-o", str(trace),
             sys.executable, "-B", "-m", "tests.fault.recorded", str(root), "3", "16"],
            cwd=ROOT, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        seen = list(calls_seen(trace.read_text(), root))
    finally:
        trace.unlink(missing_ok=True)
    recorded = [json.loads(line) for line in done.stdout.splitlines()]
    assert {call[0] for call in recorded} == {
        "create", "write", "allocate", "truncate", "sync", "sync_data", "sync_dir", "replace",
        "link", "unlink", "mkdir",
    }  # fmt: skip
    for number, (ours, theirs) in enumerate(zip(recorded, seen, strict=False)):
        assert ours == theirs, f"call {number}: {recorded[number - 3 : number + 4]}"
    assert len(recorded) == len(seen)
