"""The mutation gate's instrument; ``make torture ARGS=mutants`` tries all mutants."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fault.mutation import (
    MUTANTS_MIN,
    SOURCES,
    apply,
    copy_sources,
    mutants,
    mutation_gate,
    run_gate,
)

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def test_every_mutant_applies_to_the_sources_as_they_are(tmp_path: Path) -> None:
    found = mutants()
    assert len(found) >= MUTANTS_MIN
    for number, patch in enumerate(found):
        copy = copy_sources(tmp_path / str(number))
        before = {
            path: path.read_bytes() for name in SOURCES for path in (copy / name).rglob("*.py")
        }
        apply(patch, copy)
        assert any(path.read_bytes() != body for path, body in before.items()), patch.name
        shutil.rmtree(copy)


@pytest.mark.timeout(600)
def test_the_gate_catches_an_acknowledgement_before_the_sync(tmp_path: Path) -> None:
    copy = copy_sources(tmp_path / "copy")
    (patch,) = mutants(["acknowledge-before-sync"])
    apply(patch, copy)
    caught_by, output = run_gate(copy)
    assert "test_crash_states" in caught_by, output


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_mutant_is_caught(tmp_path: Path) -> None:
    outcome = mutation_gate(tmp_path)
    assert outcome.passed, "\n".join(outcome.lines())
