"""The mutation gate: deliberate faults in the storage code, each of which must be caught.

A mutant is a patch in ``mutants/``. It is applied to a copy of the sources, and the
fault tests run there until one fails. One that survives shows a promise that no
test holds. The copy without a patch has to pass, or nothing was shown.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fault.outcome import Outcome

ROOT = Path(__file__).resolve().parent.parent.parent
MUTANTS = Path(__file__).parent / "mutants"
SOURCES = ("client/src", "daemon/src", "tests", "pyproject.toml")
MUTANTS_MIN = 12
SECONDS_MAX = 900.0

GATE = (
    ("tests/fault/test_crash_states.py",),
    ("tests/fault/test_recovery_kills.py", "tests/fault/test_recovery_spare.py"),
    ("tests/fault",),
)
"""What must catch a mutant, the likeliest first."""

IGNORED = ("test_mutation.py",)
"""What would try mutants of mutants."""


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant: the test that caught it, or nothing."""

    name: str
    caught_by: str
    output: str = ""


def mutants(words: Sequence[str] = ()) -> list[Path]:
    """The patches, those whose name holds one of the words."""
    found = sorted(MUTANTS.glob("*.patch"))
    return [path for path in found if not words or any(word in path.stem for word in words)]


def copy_sources(into: Path) -> Path:
    """A copy of what the tests run."""
    for name in SOURCES:
        source, target = ROOT / name, into / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "mutants", "*.egg-info")
            shutil.copytree(source, target, ignore=ignore)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return into


def apply(patch: Path, copy: Path) -> None:
    """Apply a patch. Raises ``RuntimeError`` when the sources have moved on."""
    done = subprocess.run(
        ["git", "apply", "--recount", "-p1", str(patch)],
        cwd=copy,
        capture_output=True,
        text=True,
        # Above the copy there may be a repository, which is not meant.
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)},
    )
    if done.returncode:
        raise RuntimeError(f"cannot apply {patch.name}: {done.stderr.strip()}")


def run_gate(copy: Path) -> tuple[str, str]:
    """Run the fault tests in a copy; gives the first that failed, and what it printed."""
    paths = os.pathsep.join(str(copy / name) for name in ("client/src", "daemon/src"))
    env = {name: value for name, value in os.environ.items() if name != "TALLYMARK_CI"}
    for tests in GATE:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests,
             *(f"--ignore=tests/fault/{name}" for name in IGNORED)],
            cwd=copy, capture_output=True, text=True, timeout=SECONDS_MAX,
            env={**env, "PYTHONPATH": paths},
        )  # fmt: skip
        if done.returncode:
            failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
            return (failed or ["an error"])[0].split(" - ")[0], done.stdout
    return "", ""


def try_mutant(patch: Path | None, directory: Path) -> Verdict:
    """One mutant in a copy of its own; None is the control, which nothing must catch."""
    name = patch.stem if patch else "control"
    copy = copy_sources(directory / name)
    if patch is not None:
        apply(patch, copy)
    caught_by, output = run_gate(copy)
    shutil.rmtree(copy)
    return Verdict(name, caught_by, output)


def verdicts(directory: Path, words: Sequence[str] = ()) -> Iterator[Verdict]:
    """Every mutant, after the control."""
    control = try_mutant(None, directory)
    if control.caught_by:
        raise RuntimeError(f"the sources themselves do not pass:\n{control.output}")
    for patch in mutants(words):
        yield try_mutant(patch, directory)


def mutation_gate(directory: Path) -> Outcome:
    """Every mutant must be caught; a survivor counts as wrong."""
    tried = list(verdicts(directory))
    survivors = [each for each in tried if not each.caught_by]
    return Outcome(
        f"mutants, {len(tried) - len(survivors)} of {len(tried)} caught",
        len(tried),
        wrong=len(survivors) + (len(tried) < MUTANTS_MIN),
        notes=tuple(f"{each.name}: {each.caught_by or 'SURVIVED'}" for each in tried),
    )
