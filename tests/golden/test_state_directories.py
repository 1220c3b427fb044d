"""Whole state directories of this version: written so, and read for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallymark.fs import OsFileSystem
from tallymarkd.core.loading import read_only
from tallymarkd.core.verify import verify
from tests.daemon_parts import PRODUCERS, image, run_end
from tests.golden.state_directories import (
    FOLDER,
    INDEX,
    MAKERS,
    as_json,
    main,
    result,
    to_files,
    to_text,
)
from tests.small_state import SmallState, start

NAMES = sorted(path.stem for path in FOLDER.glob("*.txt"))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def state(name: str) -> SmallState:
    return SmallState(to_files((FOLDER / f"{name}.txt").read_text()), [], {}, [])


def test_there_is_one_of_each() -> None:
    assert set(MAKERS) <= set(NAMES)


def test_it_is_written_so_today(name: str, tmp_path: Path) -> None:
    assert to_text(MAKERS[name](tmp_path / "made").files) == (FOLDER / f"{name}.txt").read_text()


@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "without index"])
def test_a_start_reads_it(name: str, state: SmallState, tmp_path: Path, indexed: bool) -> None:
    root = tmp_path / "state"
    state.write(root, {} if indexed else {INDEX: None})
    core = start(root)
    found = as_json(result(core))
    known = len(core.keys.known(core_keys(state)))
    core.crash()

    assert found == (FOLDER / f"{name}.json").read_text()
    assert known == len(core_keys(state)) > 5


def core_keys(state: SmallState) -> list[int]:
    """The keys as the frozen index has them."""
    text = to_text({INDEX: state.files[INDEX]})
    rows = [line for line in text.splitlines() if line.startswith("INSERT INTO keys")]
    return [int(row.partition("(")[2].partition(",")[0]) for row in rows]


def test_it_is_read_without_a_daemon(name: str, state: SmallState, tmp_path: Path) -> None:
    root = tmp_path / "state"
    state.write(root)
    core_books = read_only(OsFileSystem(), root)
    found = as_json({"projects": image(core_books)["projects"]})
    core = start(root)
    started = as_json({"projects": image(core.books)["projects"]})
    core.crash()

    assert found == started


def test_nothing_is_found_wrong_with_it(state: SmallState, tmp_path: Path) -> None:
    root = tmp_path / "state"
    state.write(root)

    assert verify(OsFileSystem(), root).findings == []


def test_it_goes_on_from_there(state: SmallState, tmp_path: Path) -> None:
    root = tmp_path / "state"
    state.write(root)
    core = start(root)
    core.put(run_end(5000), producer=PRODUCERS[9])
    core.stop()
    core = start(root, seed=10)
    runs = [run.event_id for run in core.books.projects["spotter"].runs]
    core.crash()

    assert runs.count("run-5000") == 1


def test_what_is_frozen_is_never_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in FOLDER.iterdir()}
    main()

    assert {path: path.stat().st_mtime_ns for path in FOLDER.iterdir()} == before
    assert capsys.readouterr().out == ""
