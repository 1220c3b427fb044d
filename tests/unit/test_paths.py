"""Paths: sockets, state directories, and which project a directory belongs to."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallymark.errors import PathError
from tallymark.paths import (
    SOCKET_PATH_BYTES_MAX,
    SYSTEM_SOCKET,
    check_socket_path,
    default_project,
    is_wrong,
    project_of_directory,
    socket_candidates,
    socket_path,
    spool_dir,
    state_dir,
)
from tallymark.settings import check_name


@pytest.mark.parametrize(
    ("env", "platform", "expected"),
    [
        ({"HOME": "/home/a"}, "linux", "/home/a/.local/state/tallymark"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "/s"}, "linux", "/s/tallymark"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": ""}, "linux", "/home/a/.local/state/tallymark"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "s"}, "linux", "/home/a/.local/state/tallymark"),
        (
            {"HOME": "/Users/a", "XDG_STATE_HOME": "/s"},
            "darwin",
            "/Users/a/Library/Application Support/tallymark",
        ),
    ],
)
def test_state_dir(env: dict[str, str], platform: str, expected: str) -> None:
    assert state_dir(env, platform) == Path(expected)


def test_state_dir_without_home_is_the_users() -> None:
    assert state_dir({}, "linux") == Path("~/.local/state/tallymark").expanduser()


def test_a_user_without_a_home_has_a_state_directory_where_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert state_dir({"XDG_STATE_HOME": "/s"}, "linux") == Path("/s/tallymark")
    assert spool_dir("/sp", {}) == Path("/sp")
    with pytest.raises(PathError, match="cannot use path ~: .*set HOME"):
        state_dir({}, "linux")
    with pytest.raises(PathError, match="cannot use path ~: .*set HOME"):
        spool_dir(None, {})


def test_candidates_are_the_users_and_the_systems() -> None:
    env = {"HOME": "/home/a"}
    assert socket_candidates(None, env) == [socket_path(state_dir(env)), SYSTEM_SOCKET]
    assert str(socket_path(Path("/s"))) == "/s/run/tallymark.sock"


def test_a_chosen_socket_stands_alone() -> None:
    env = {"HOME": "/home/a", "TALLYMARK_SOCKET": "/env.sock"}
    assert socket_candidates(None, env) == [Path("/env.sock")]
    assert socket_candidates("/arg.sock", env) == [Path("/arg.sock")]
    assert socket_candidates(Path("arg.sock"), {}) == [Path.cwd() / "arg.sock"]
    # As the daemon reads its own setting, so that a spool's header names the same socket.
    assert socket_candidates("a/../arg.sock", {}) == [Path.cwd() / "arg.sock"]


def test_a_state_directory_that_is_said_leads_to_its_socket_alone() -> None:
    env = {"HOME": "/home/a", "TALLYMARK_STATE_DIR": "/data/x/../run"}
    assert socket_candidates(None, env) == [Path("/data/run/run/tallymark.sock")]
    assert socket_candidates(None, env | {"TALLYMARK_SOCKET": "/env.sock"}) == [Path("/env.sock")]
    assert socket_candidates("/arg.sock", env) == [Path("/arg.sock")]
    assert socket_candidates(None, {**env, "TALLYMARK_STATE_DIR": ""})[1] == SYSTEM_SOCKET
    relative = {"TALLYMARK_STATE_DIR": "run"}
    assert socket_candidates(None, relative) == [Path.cwd() / "run" / "run" / "tallymark.sock"]


def test_a_socket_path_over_the_limit_is_refused_with_its_length() -> None:
    fits = "/" + "x" * (SOCKET_PATH_BYTES_MAX - 1)
    assert check_socket_path(Path(fits)) == Path(fits)
    with pytest.raises(PathError) as told:
        check_socket_path(Path(fits + "x"))
    assert f"{SOCKET_PATH_BYTES_MAX + 1} bytes" in str(told.value)
    assert f"limit is {SOCKET_PATH_BYTES_MAX}" in str(told.value)
    long = {"TALLYMARK_SOCKET": fits + "x"}, {"TALLYMARK_STATE_DIR": fits}
    for explicit, env in ((fits + "x", {}), *((None, each) for each in long)):
        with pytest.raises(PathError):
            socket_candidates(explicit, env)


def test_the_length_of_a_socket_path_is_counted_in_bytes() -> None:
    path = "/" + "ü" * (SOCKET_PATH_BYTES_MAX // 2 + 1)
    assert len(path) < SOCKET_PATH_BYTES_MAX
    with pytest.raises(PathError):
        check_socket_path(Path(path))


def test_the_limit_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The longest path that can be bound, and one byte more that cannot.
    monkeypatch.chdir(tmp_path)
    longest = "x" * SOCKET_PATH_BYTES_MAX
    with socket.socket(socket.AF_UNIX) as bound, socket.socket(socket.AF_UNIX) as other:
        bound.bind(longest)
        with pytest.raises(OSError, match="too long"):
            other.bind(longest + "x")


def test_project_by_argument_variable_and_directory(tmp_path: Path) -> None:
    env = {"TALLYMARK_PROJECT": "of-env"}
    here = tmp_path / "here"
    assert default_project("given", env, here) == "given"
    assert default_project(None, env, here) == "of-env"
    assert default_project("", {"TALLYMARK_PROJECT": ""}, here) == "here"
    assert default_project(None, {}, None) == "unnamed"


def make_repository(path: Path) -> Path:
    (path / ".git").mkdir(parents=True)
    (path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return path


def make_worktree(path: Path, git_dir: Path, common: str = "../..") -> Path:
    """As `git worktree add` leaves it: a file here, a directory in the repository."""
    path.mkdir(parents=True)
    git_dir.mkdir(parents=True)
    (path / ".git").write_text(f"gitdir: {git_dir}\n")
    (git_dir / "commondir").write_text(f"{common}\n")
    (git_dir / "HEAD").write_text("ref: refs/heads/other\n")
    return path


def test_a_plain_directory_is_its_own_project(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert project_of_directory(tmp_path / "plain") == "plain"


def test_a_directory_that_does_not_exist_has_the_paths_name(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo")
    assert project_of_directory(repository / "gone" / "deep") == "deep"


def test_the_root_has_a_name_of_no_ones() -> None:
    assert project_of_directory(Path("/")) == "unnamed"


def test_a_subdirectory_belongs_to_its_repository(tmp_path: Path) -> None:
    deep = make_repository(tmp_path / "repo") / "src" / "deep"
    deep.mkdir(parents=True)
    assert project_of_directory(deep) == "repo"
    assert project_of_directory(tmp_path / "repo") == "repo"


def test_an_empty_git_directory_makes_no_repository(tmp_path: Path) -> None:
    (tmp_path / "outer" / ".git").mkdir(parents=True)
    (tmp_path / "outer" / "inner").mkdir()
    assert project_of_directory(tmp_path / "outer" / "inner") == "inner"


def test_a_linked_worktree_belongs_to_its_repository(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo")
    tree = make_worktree(tmp_path / "elsewhere", repository / ".git" / "worktrees" / "elsewhere")
    (tree / "src").mkdir()
    assert project_of_directory(tree) == "repo"
    assert project_of_directory(tree / "src") == "repo"


def test_a_worktree_inside_its_repository_belongs_to_it(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo")
    tree = make_worktree(repository / ".trees" / "a", repository / ".git" / "worktrees" / "a")
    assert project_of_directory(tree) == "repo"


def test_a_worktree_whose_repository_is_out_of_reach(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / ".git").write_text("gitdir: /nowhere/repo/.git/worktrees/tree\n")
    assert project_of_directory(tree) == "repo"


def test_a_relative_gitdir_is_relative_to_the_tree(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo")
    git_dir = repository / ".git" / "worktrees" / "tree"
    tree = make_worktree(tmp_path / "tree", git_dir)
    (tree / ".git").write_text("gitdir: ../repo/.git/worktrees/tree\n")
    assert project_of_directory(tree) == "repo"


def test_a_submodule_is_its_own(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "super")
    for place in ("lib", "worktrees/lib"):
        git_dir = repository / ".git" / "modules" / place
        git_dir.mkdir(parents=True)
        module = repository / place
        module.mkdir(parents=True)
        (module / ".git").write_text(f"gitdir: {git_dir}\n")
        assert project_of_directory(module) == "lib"


def test_a_worktree_of_a_submodule_belongs_to_the_submodule(tmp_path: Path) -> None:
    modules = make_repository(tmp_path / "super") / ".git" / "modules" / "lib"
    tree = make_worktree(tmp_path / "tree", modules / "worktrees" / "tree")
    assert project_of_directory(tree) == "lib"


@pytest.mark.parametrize("bare", ["proj.git", "proj/.bare", "proj"])
def test_a_worktree_of_a_bare_repository_has_its_name(tmp_path: Path, bare: str) -> None:
    tree = make_worktree(tmp_path / "tree", tmp_path / bare / "worktrees" / "tree")
    assert project_of_directory(tree) == "proj"


def test_a_separate_git_directory_leaves_the_name_to_the_tree(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "kept.git").mkdir()
    (tmp_path / "tree" / ".git").write_text(f"gitdir: {tmp_path}/kept.git\n")
    assert project_of_directory(tmp_path / "tree") == "tree"


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe\x00", b"x" * 10_000])
def test_a_git_file_of_nonsense_is_no_repository(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / ".git").write_bytes(content)
    assert project_of_directory(tmp_path / "here") == "here"


def test_a_link_leads_to_the_same_project(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repo")
    (tmp_path / "link").symlink_to(repository)
    assert project_of_directory(tmp_path / "link") == "repo"


@pytest.mark.skipif(sys.platform == "darwin", reason="not on this platform: names are UTF-8")
def test_a_name_that_is_no_text_can_be_encoded(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    name = project_of_directory(folder)
    assert name.encode("utf-8").startswith(b"caf")
    assert name != "caf"


def test_a_path_that_is_wrong_is_told_from_one_that_cannot_be_used_now(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for wrong in ("file/below", "loop/below", "x" * 300):
        with pytest.raises(OSError) as caught:
            (tmp_path / wrong).stat()
        assert is_wrong(caught.value)
    assert not is_wrong(FileNotFoundError(errno.ENOENT, "gone"))
    assert not is_wrong(PermissionError(errno.EACCES, "not yours"))


@pytest.fixture
def forbid(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Have the system refuse what is in a directory, as to another user (never to root)."""

    def forbid(directory: Path) -> None:
        true_stat = os.stat

        def stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
            if isinstance(path, str | os.PathLike) and directory in Path(path).parents:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return true_stat(path, *args, **kwargs)

        monkeypatch.setattr(os, "stat", stat)

    return forbid


def test_a_repository_that_only_another_user_may_read_is_one(
    tmp_path: Path, forbid: Callable[[Path], None]
) -> None:
    inner = make_repository(tmp_path / "proj") / "src"
    inner.mkdir()
    forbid(tmp_path / "proj" / ".git")
    assert project_of_directory(inner) == "proj"


def test_a_directory_that_may_not_be_looked_at_has_the_paths_name(
    tmp_path: Path, forbid: Callable[[Path], None]
) -> None:
    inner = make_repository(tmp_path / "proj") / "src"
    inner.mkdir()
    forbid(tmp_path)
    assert project_of_directory(inner) == "src"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my\u00a0project", "my project"),
        ("\u65e5\u672c\u3000\u8a9e", "\u65e5\u672c \u8a9e"),
        ("x\ty", "x y"),
        ("x\x07y", "x\ufffdy"),
        ("\u3000", "unnamed"),
    ],
)
def test_a_name_that_was_found_can_be_a_projects(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / name).mkdir()
    assert project_of_directory(tmp_path / name) == expected
    assert check_name("project", expected) == expected
