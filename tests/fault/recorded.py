"""``python -m tests.fault.recorded ROOT SEED STEPS``: live a workload in a directory, and
print the operations that the file system's interface saw, one JSON array a line.

A test holds them against the system calls that strace saw meanwhile.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.fault.outcome import quiet
from tests.fault.workload import record
from tests.faulty_fs import Operation

Call = list[str | int]
"""A system call that changes a file, a directory, or what is durable of it."""


def calls_of(operation: Operation, directories: set[Path]) -> Iterator[Call]:
    """The system calls that one operation has to be; ``directories`` are there already."""
    path, target = operation.path, operation.target
    match operation.kind:
        case "create" | "unlink":
            yield [operation.kind, path.name]
        case "write":
            yield ["write", operation.offset, len(operation.data)]
        case "allocate":
            yield ["allocate", operation.offset, operation.length]
        case "truncate":
            yield ["truncate", operation.offset]
        case "replace" | "link":
            assert target is not None
            yield [operation.kind, path.name, target.name]
        case "sync_dir":
            yield ["sync_dir", path.name]
        case "mkdir":
            for each in (*reversed(path.parents), path):
                if each not in directories:
                    directories.add(each)
                    yield ["mkdir", each.name]
                    yield ["sync_dir", each.parent.name]
        case _:
            yield [operation.kind]


def main(root: Path, seed: int, steps: int) -> None:
    """Live, then tell."""
    directories = {root.parent, *root.parent.parents}
    with quiet():
        tape = record(root, seed=seed, steps=steps)
    for operation in tape.operations:
        if not operation.failed:
            for call in calls_of(operation, directories):
                print(json.dumps(call))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
