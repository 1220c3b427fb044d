"""Which state directory a command works on; never that of another daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backups import a_backup
from tests.damaged_states import tree
from tests.state_dirs import a_history
from tests.tallymark_command import Tallymark

NONE = "/nowhere/none.sock"
COMMANDS = ("repair", "verify", "restore", "backup", "", "dump")


@pytest.fixture
def usual(tallymark: Tallymark) -> Path:
    """The usual state directory, of a daemon that died."""
    a_history(tallymark.state_dir).crash()
    return tallymark.state_dir


@pytest.mark.parametrize("by", ["option", "variable"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_socket_where_nobody_is_leads_to_no_other_daemons_state(
    usual: Path, tallymark: Tallymark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, by: str,
) -> None:  # fmt: skip
    (tmp_path / "made").mkdir()
    words = {
        "restore": ["restore", str(a_backup(tmp_path / "made")), "--replace"],
        "backup": ["backup", str(tmp_path / "b")],
        "": [],
        "dump": ["dump", "--project", "spotter"],
    }.get(name, [name])
    if by == "option":
        words = ["--socket", NONE, *words]
    else:
        monkeypatch.setenv("TALLYMARK_SOCKET", NONE)
    before = tree(usual)

    done = tallymark(*words)

    assert f"cannot tell which state directory belongs to {NONE}; give --state-dir" in done.err
    assert (done.code, done.out) == (1 if name in ("", "dump") else 2, "")
    assert tree(usual) == before
    assert not (tmp_path / "b").exists()


def test_an_exported_state_directory_stands_beside_a_socket(
    usual: Path, tallymark: Tallymark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    a_history(said).crash()
    monkeypatch.setenv("TALLYMARK_STATE_DIR", str(said))
    before = tree(usual)
    assert tallymark("--socket", NONE, "repair").out.startswith(f"{said}: settled")
    assert tallymark("--socket", NONE, "verify").out.startswith(f"{said}: ")
    assert tree(usual) == before


def test_what_is_shown_of_files_names_their_directory(
    usual: Path, tallymark: Tallymark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tallymark().err.endswith(f", in {usual}\n")
    monkeypatch.setenv("TALLYMARK_SOCKET", NONE)
    done = tallymark("--state-dir", str(usual), "--json")
    assert (done.code, done.err.endswith(f", in {usual}\n")) == (0, True)
