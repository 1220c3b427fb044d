"""A daemon for a test: real, on a directory of its own, gone after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon, running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """One that answers."""
    with running(tmp_path / "state") as found:
        yield found
