"""Both distributions build, install and type-check, each from its own folder alone."""

from __future__ import annotations

import email.message
import email.parser
import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tallymarkd.service.render import SERVICE, SOCKET
from tests.wheels import PARTS, ROOT, SURROUNDINGS, environment, run

CONSUMER = ROOT / "tests" / "typing" / "consumer.py"

# An environment is made, and packages are fetched, before the first test can begin.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, wheels: dict[str, Path]) -> Path:
    return environment(tmp_path_factory.mktemp("both") / "venv", list(wheels.values()))


def version_of(part: str) -> str:
    namespace: dict[str, str] = {}
    text = (ROOT / part / "src" / PARTS[part][1] / "_version.py").read_text()
    exec(compile(text, "_version.py", "exec"), namespace)
    return namespace["__version__"]


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.parser.Parser().parsestr(archive.read(name).decode())


@pytest.mark.parametrize("part", PARTS)
def test_sdist_and_wheel_hold_the_whole_package(
    part: str, builds: dict[str, Path], wheels: dict[str, Path]
) -> None:
    _, package = PARTS[part]
    source = ROOT / part / "src"
    files = {
        path.relative_to(source).as_posix()
        for path in (source / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert f"{package}/py.typed" in files
    with zipfile.ZipFile(wheels[part]) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        licenses = [n for n in archive.namelist() if n.endswith("dist-info/licenses/LICENSE")]
        assert archive.read(licenses[0]) == (ROOT / "LICENSE").read_bytes()
    assert inside == files

    with tarfile.open(next(builds[part].glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    own = {"README.md", "LICENSE", "pyproject.toml", "PKG-INFO"}
    assert names - {".gitignore"} == own | {f"src/{name}" for name in files}


def test_the_units_are_in_wheel_and_sdist(builds: dict[str, Path], wheels: dict[str, Path]) -> None:
    templates = {path.name for path in (ROOT / "daemon/src/tallymarkd/units").iterdir()}
    kinds = {f"{kind}-{unit}" for kind in ("user", "system") for unit in (SOCKET, SERVICE)}
    assert templates >= kinds
    units = {f"tallymarkd/units/{name}" for name in templates}
    with zipfile.ZipFile(wheels["daemon"]) as archive:
        assert units <= set(archive.namelist())
    with tarfile.open(next(builds["daemon"].glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in units} <= names


@pytest.mark.parametrize("part", PARTS)
def test_metadata(part: str, wheels: dict[str, Path]) -> None:
    found = metadata(wheels[part])
    assert found["Name"] == PARTS[part][0]
    assert found["Version"] == version_of(part)
    assert found["Requires-Python"] == ">=3.11"
    assert found["License-Expression"] == "MIT"
    assert found["Summary"]
    assert str(found.get_payload()).startswith("# tallymark")


def test_the_license_stands_in_each_distribution() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert {(ROOT / part / "LICENSE").read_text() for part in PARTS} == {text}


def test_no_package_is_made_of_a_distribution_folder() -> None:
    # It would be importable from the root, and hide what is installed.
    assert [part for part in PARTS if (ROOT / part / "__init__.py").exists()] == []


def test_versions_agree(wheels: dict[str, Path]) -> None:
    client, daemon = Version(version_of("client")), Version(version_of("daemon"))
    assert client.release[:2] == daemon.release[:2]
    needed = {
        requirement.name: requirement.specifier
        for requirement in map(Requirement, metadata(wheels["daemon"]).get_all("Requires-Dist", []))
    }
    same_minor = needed["tallymark-client"]
    major, minor = client.release[:2]
    assert client in same_minor
    assert Version(f"{major}.{minor}.99") in same_minor
    assert Version(f"{major}.{minor + 1}.0") not in same_minor
    assert all(specifier for specifier in needed.values()), "a requirement has no lower bound"


def test_every_needed_version_is_the_same_for_both() -> None:
    needs = {
        part: tomllib.loads((ROOT / part / "pyproject.toml").read_text())["project"]["dependencies"]
        for part in PARTS
    }
    msgspec = {line for lines in needs.values() for line in lines if line.startswith("msgspec")}
    assert len(msgspec) == 1


def test_the_client_alone_brings_msgspec_alone(tmp_path: Path, wheels: dict[str, Path]) -> None:
    python = environment(tmp_path / "venv", [wheels["client"]]) / "python"
    program = (
        "import importlib.metadata as m, json, sys, tallymark;"
        "print(json.dumps(["
        "sorted(d.name for d in m.distributions()), tallymark.__version__, tallymark.__file__]))"
    )
    # -I: neither the current folder nor a variable leads to the source.
    names, version, file = json.loads(run(python, "-I", "-W", "error", "-c", program))
    assert names == ["msgspec", "tallymark-client"]
    assert version == version_of("client")
    assert Path(file).is_relative_to(tmp_path)


@pytest.mark.parametrize("command", ["tallymark", "tallymarkd"])
def test_both_commands_answer(command: str, both: Path, tmp_path: Path) -> None:
    said = run(both / command, "--version", cwd=tmp_path)
    assert version_of("daemon") in said.split(), said


def check_types(both: Path, program: Path) -> subprocess.CompletedProcess[str]:
    """Type-check a program that sees only what is installed, not the repository."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull),
            *("--cache-dir", str(program.parent / "cache")),
            *("--python-executable", both / "python", program.name),
        ],
        cwd=program.parent,
        env=SURROUNDINGS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )


def test_a_consumer_type_checks(both: Path, tmp_path: Path) -> None:
    program = tmp_path / "consumer.py"
    program.write_text(CONSUMER.read_text())
    checked = check_types(both, program)
    assert checked.returncode == 0, checked.stdout


def test_a_consumers_mistakes_are_told(both: Path, tmp_path: Path) -> None:
    # Without py.typed, or with Any at the surface, nothing here would be wrong.
    program = tmp_path / "mistaken.py"
    program.write_text(
        "from tallymark import Client\n"
        "from tallymark.events import Usage\n"
        "client = Client(project=1)\n"
        "client.emit('an event')\n"
        "Usage(input_tokens='many')\n"
        "client.flush(timeout='long')\n"
        "with client.track_agent('coding') as run:\n"
        "    run.add_tokens(input_tokens='many')\n"
    )
    told = check_types(both, program).stdout
    lines = [int(line.split(":")[1]) for line in told.splitlines() if ": error: " in line]
    assert lines == [3, 4, 5, 6, 8], told
