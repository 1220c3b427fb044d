"""The floors, their direction, and where sockets and file calls may stand."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests import architecture as arch

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "client" / "src"
DAEMON = ROOT / "daemon" / "src"

Check = Callable[[Mapping[str, arch.Module]], list[str]]


def declared(part: str) -> set[str]:
    """The import names of what a distribution needs."""
    project = tomllib.loads((ROOT / part / "pyproject.toml").read_text())["project"]
    found = (re.match(r"[\w-]+", line) for line in project["dependencies"])
    names = {match.group().replace("-", "_") for match in found if match}
    return {"tallymark" if name == "tallymark_client" else name for name in names}


def client_floors(modules: Mapping[str, arch.Module]) -> list[str]:
    return arch.check_floors(modules, arch.CLIENT_FLOORS)


def daemon_floors(modules: Mapping[str, arch.Module]) -> list[str]:
    return arch.check_floors(modules, arch.DAEMON_FLOORS)


def client_needs(modules: Mapping[str, arch.Module]) -> list[str]:
    return arch.check_third_parties(modules, "tallymark", {"msgspec"})


def daemon_needs(modules: Mapping[str, arch.Module]) -> list[str]:
    return arch.check_third_parties(modules, "tallymarkd", declared("daemon"))


CHECKS: tuple[Check, ...] = (
    client_floors,
    daemon_floors,
    arch.check_cycles,
    arch.check_allowed,
    arch.check_sockets,
    arch.check_files,
    arch.check_form,
    client_needs,
    daemon_needs,
)


@pytest.fixture(scope="module")
def repository() -> dict[str, arch.Module]:
    return arch.read_tree(CLIENT, DAEMON)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_repository_keeps_the_rule(repository: dict[str, arch.Module], check: Check) -> None:
    complaints = check(repository)
    assert not complaints, "\n".join(complaints)


def test_the_whole_source_is_read(repository: dict[str, arch.Module]) -> None:
    files = [*CLIENT.rglob("*.py"), *DAEMON.rglob("*.py")]
    assert len(repository) == len(files) > 20
    assert {"tallymark.fs", "tallymark.protocol", "tallymarkd.core.entry"} <= set(repository)
    assert any(
        found.target == "tallymark.events" for found in repository["tallymarkd.core.entry"].imports
    )


def test_benchmarks_are_not_too_long() -> None:
    modules = arch.read_tree(ROOT / "benchmarks")
    assert [c for c in arch.check_form(modules) if "lines" in c] == []


def test_the_client_declares_msgspec_alone() -> None:
    assert declared("client") == {"msgspec"}


# Small trees: each breaks one rule in one place, or just does not.

BROKEN: dict[str, tuple[Check, dict[str, str], str]] = {
    "upward": (
        client_floors,
        {"tallymark/errors.py": "import tallymark.fs", "tallymark/fs.py": ""},
        "tallymark.errors:1: imports tallymark.fs from above",
    ),
    "upward in a function": (
        daemon_floors,
        {"tallymarkd/storage/a.py": "def f():\n    from tallymarkd.core import b"},
        "tallymarkd.storage.a:2: imports tallymarkd.core from above",
    ),
    "upward for types only": (
        daemon_floors,
        {
            "tallymarkd/core/a.py": (
                "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n"
                "    from tallymarkd.app import App"
            )
        },
        "tallymarkd.core.a:3: imports tallymarkd.app from above",
    ),
    "upward, relative": (
        daemon_floors,
        {"tallymarkd/storage/a.py": "from ..server import b", "tallymarkd/server/b.py": ""},
        "tallymarkd.storage.a:1: imports tallymarkd.server.b from above",
    ),
    "upward by name": (
        daemon_floors,
        {"tallymarkd/core/a.py": "import importlib\nimportlib.import_module('tallymarkd.cli')"},
        "tallymarkd.core.a:2: imports tallymarkd.cli from above",
    ),
    "the public surface from within": (
        client_floors,
        {"tallymark/fs.py": "from tallymark import Client", "tallymark/__init__.py": ""},
        "tallymark.fs:1: imports tallymark from above",
    ),
    "a new module, used from below": (
        client_floors,
        {
            "tallymark/helpers.py": "import tallymark.fs",
            "tallymark/fs.py": "import tallymark.helpers",
        },
        "tallymark.fs:1: imports tallymark.helpers from above",
    ),
    "cycle": (
        arch.check_cycles,
        {
            "tallymarkd/core/a.py": "from tallymarkd.core.b import x",
            "tallymarkd/core/b.py": "def f():\n    from tallymarkd.core import c",
            "tallymarkd/core/c.py": "import tallymarkd.core.a",
            "tallymarkd/core/d.py": "import tallymarkd.core.a",
        },
        "import each other: tallymarkd.core.a, tallymarkd.core.b, tallymarkd.core.c",
    ),
    "client to daemon": (
        arch.check_allowed,
        {"tallymark/client.py": "from tallymarkd import app"},
        "tallymark.client:1: imports tallymarkd: the client knows nothing of the daemon",
    ),
    "storage knows agents": (
        arch.check_allowed,
        {
            "tallymark/events.py": "",
            "tallymarkd/storage/a.py": "from tallymark import events, errors",
            "tallymark/errors.py": "",
        },
        (
            "tallymarkd.storage.a:1: imports tallymark.events: tallymarkd.storage may use only "
            "tallymark.record, tallymark.fs, tallymark.errors of the client"
        ),
    ),
    "protocol knows the clock": (
        arch.check_allowed,
        {"tallymark/protocol/a.py": "from time import monotonic"},
        "tallymark.protocol.a:1: imports time: not for tallymark.protocol",
    ),
    "server knows the journal": (
        arch.check_allowed,
        {"tallymarkd/server/a.py": "import tallymarkd.storage.journal as j"},
        "tallymarkd.server.a:1: imports tallymarkd.storage.journal: not for tallymarkd.server",
    ),
    "server knows state files": (
        arch.check_allowed,
        {"tallymarkd/server/a.py": "from tallymarkd.core.metrics_store import MetricsStore"},
        "tallymarkd.server.a:1: imports tallymarkd.core.metrics_store: not for tallymarkd.server",
    ),
    "socket elsewhere": (
        arch.check_sockets,
        {"tallymark/client.py": "import socket"},
        "tallymark.client:1: imports socket",
    ),
    "core reaches a socket": (
        arch.check_sockets,
        {
            "tallymark/transport.py": "import socket",
            "tallymark/client.py": "import tallymark.transport",
            "tallymarkd/core/a.py": "import tallymark.client",
        },
        "tallymarkd.core.a:1: reaches sockets through tallymark.transport",
    ),
    "os.replace": (
        arch.check_files,
        {"tallymarkd/core/a.py": "import os\nos.replace('a', 'b')"},
        "tallymarkd.core.a:2: uses os.replace",
    ),
    "os.fsync under another name": (
        arch.check_files,
        {"tallymarkd/core/a.py": "import os as o\nsync = o.fsync"},
        "tallymarkd.core.a:2: uses os.fsync",
    ),
    "os.open imported": (
        arch.check_files,
        {"tallymarkd/app.py": "from os import open as o"},
        "tallymarkd.app:1: imports os.open",
    ),
    "shutil": (
        arch.check_files,
        {"tallymarkd/app.py": "import shutil"},
        "tallymarkd.app:1: imports shutil",
    ),
    "open for writing": (
        arch.check_files,
        {"tallymarkd/app.py": "open('a', mode='ab')"},
        "tallymarkd.app:1: uses open(…, 'ab')",
    ),
    "Path.open for writing": (
        arch.check_files,
        {"tallymarkd/app.py": "p.open('w')"},
        "tallymarkd.app:1: uses open(…, 'w')",
    ),
    "open with a computed mode": (
        arch.check_files,
        {"tallymarkd/app.py": "open('a', m)"},
        "tallymarkd.app:1: uses open with a computed mode",
    ),
    "Path.write_text": (
        arch.check_files,
        {"tallymarkd/app.py": "p.write_text('a')"},
        "tallymarkd.app:1: uses Path.write_text",
    ),
    "Path.unlink": (
        arch.check_files,
        {"tallymarkd/app.py": "p.unlink(missing_ok=True)"},
        "tallymarkd.app:1: uses Path.unlink",
    ),
    "Path.replace": (
        arch.check_files,
        {"tallymarkd/app.py": "p.replace(q)"},
        "tallymarkd.app:1: uses Path.replace",
    ),
    "too long": (
        arch.check_form,
        {"tallymarkd/app.py": '"""Doc."""\n' + "\n" * 400},
        "tallymarkd.app:1: has 401 lines, 400 are allowed",
    ),
    "no docstring": (
        arch.check_form,
        {"tallymarkd/app.py": "x = 1\n"},
        "tallymarkd.app:1: has no docstring",
    ),
    "third party in the client": (
        client_needs,
        {"tallymark/client.py": "def f():\n    import psutil"},
        "tallymark.client:2: imports psutil, undeclared",
    ),
    "undeclared in the daemon": (
        daemon_needs,
        {"tallymarkd/app.py": "from requests import get"},
        "tallymarkd.app:1: imports requests, undeclared",
    ),
    "prices at once": (
        daemon_needs,
        {"tallymarkd/core/pricing.py": "import genai_prices"},
        "tallymarkd.core.pricing:1: imports genai_prices before it is needed",
    ),
}

SOUND: dict[str, str] = {
    "tallymark/__init__.py": '"""Doc."""\nfrom tallymark.client import Client',
    "tallymark/errors.py": '"""Doc."""',
    "tallymark/fs.py": '"""Doc."""\nimport os\nfrom tallymark.errors import E\nos.fsync(1)',
    "tallymark/record.py": '"""Doc."""\nfrom tallymark import errors',
    "tallymark/transport.py": '"""Doc."""\nimport socket',
    "tallymark/client.py": '"""Doc."""\nimport msgspec\nfrom tallymark import transport, fs',
    "tallymark/protocol/__init__.py": '"""Doc."""',
    "tallymark/protocol/a.py": '"""Doc."""\nfrom . import b',
    "tallymark/protocol/b.py": '"""Doc."""\nfrom ..errors import E',
    "tallymarkd/__init__.py": '"""Doc."""\nfrom tallymarkd._version import __version__',
    "tallymarkd/_version.py": "",
    "tallymarkd/storage/a.py": (
        '"""Doc."""\nfrom tallymark.fs import FileSystem\nfrom tallymark import record\n'
        "fs.replace(a, b)\nfs.unlink(a)\nfs.mkdir(a)\nopen('a', 'rb')\nopen('a')"
    ),
    "tallymarkd/core/a.py": (
        '"""Doc."""\nfrom tallymarkd.storage.a import x\nimport tallymark.protocol.a\n'
        "'a'.replace('a', 'b')\nd.replace(tzinfo=None)\nstructs.replace(s)\n"
        "t = open\nos.read(1, 1)\ndef price():\n    import genai_prices\n"
        "if TYPE_CHECKING:\n    import genai_prices"
    ),
    "tallymarkd/server/a.py": '"""Doc."""\nimport socket, h11\nfrom tallymarkd.core.a import x',
    "tallymarkd/app.py": '"""Doc."""\nimport tallymarkd.server.a, tallymarkd.storage.a, psutil',
    "tallymarkd/cli/main.py": '"""Doc."""\nfrom tallymark import Client\nimport tallymarkd.app',
}


def write(folder: Path, files: Mapping[str, str]) -> dict[str, arch.Module]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return arch.read_tree(folder)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tree_is_told(tmp_path: Path, name: str) -> None:
    check, files, complaint = BROKEN[name]
    assert check(write(tmp_path, files)) == [complaint]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_sound_tree_is_left_alone(tmp_path: Path, check: Check) -> None:
    assert check(write(tmp_path, SOUND)) == []
