"""Where socket and state live, and which project a directory belongs to.

One rule for client, daemon, command line and importers. Nothing is created
or changed here, and git is never run: its files are read.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from tallymark.errors import PathError

PROJECT_VARIABLE = "TALLYMARK_PROJECT"
SOCKET_VARIABLE = "TALLYMARK_SOCKET"
STATE_DIR_VARIABLE = "TALLYMARK_STATE_DIR"
SPOOL_DIR_VARIABLE = "TALLYMARK_SPOOL_DIR"

SYSTEM_STATE_DIR = Path("/var/lib/tallymark")
"""State of the system service."""

SYSTEM_SOCKET = Path("/run/tallymark/tallymark.sock")
"""Socket of the system service."""

SOCKET_PATH_BYTES_MAX = 103 if sys.platform == "darwin" else 107
"""Longest path of a Unix socket on this system: ``sun_path`` and its final zero."""

UNNAMED_PROJECT = "unnamed"
"""The project of a directory that has no name: the root, or one that was removed."""

GIT_FILE_BYTES_MAX = 4096


WRONG_PATH = frozenset({errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""What the system says of a path that cannot be right."""


def is_wrong(error: OSError) -> bool:
    """Whether the path itself is wrong, so that trying again later would not help."""
    return error.errno in WRONG_PATH


def state_dir(env: Mapping[str, str], platform: str = sys.platform) -> Path:
    """The user's state directory, whether or not it exists. Raises ``PathError`` for a
    user who has no home."""
    given = env.get("XDG_STATE_HOME", "")
    # The XDG specification has relative paths ignored.
    if platform != "darwin" and given.startswith("/"):
        return Path(given) / "tallymark"
    home = Path(env["HOME"]) if env.get("HOME") else expanded("~")
    if platform == "darwin":
        return home / "Library" / "Application Support" / "tallymark"
    return home / ".local" / "state" / "tallymark"


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with its ``~`` replaced. Raises ``PathError`` when nobody knows by what."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise PathError(
            f"cannot use path {path}: {error}; set HOME, or give an absolute path"
        ) from None


def said_state_dir(env: Mapping[str, str]) -> Path | None:
    """The state directory that ``TALLYMARK_STATE_DIR`` names; None when it names none."""
    said = env.get(STATE_DIR_VARIABLE, "")
    return absolute(said) if said else None


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path as the daemon reads it in its settings: spools name its socket by it.

    Raises ``PathError`` for a ``~`` that leads nowhere.
    """
    return Path(os.path.normpath(expanded(path).absolute()))


def socket_path(directory: Path) -> Path:
    """The daemon's socket in a state directory."""
    return directory / "run" / "tallymark.sock"


def spool_dir(explicit: str | os.PathLike[str] | None, env: Mapping[str, str]) -> Path:
    """Where clients keep what they cannot deliver: the argument, else
    ``TALLYMARK_SPOOL_DIR``, else ``spool`` in the user's state directory.

    Raises ``PathError`` for a ``~`` that leads nowhere.
    """
    chosen = os.fspath(explicit) if explicit is not None else env.get(SPOOL_DIR_VARIABLE, "")
    return expanded(chosen).absolute() if chosen else state_dir(env) / "spool"


def check_socket_path(path: Path) -> Path:
    """The path itself. Raises ``PathError`` when it is too long for a socket."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES_MAX:
        raise PathError(
            f"cannot use socket path {path}: it has {length} bytes and the limit is "
            f"{SOCKET_PATH_BYTES_MAX}; choose a shorter one"
        )
    return path


def socket_candidates(
    explicit: str | os.PathLike[str] | None, env: Mapping[str, str]
) -> list[Path]:
    """Sockets to try, in order.

    The explicit one alone; else ``TALLYMARK_SOCKET`` alone; else the one in
    ``TALLYMARK_STATE_DIR`` alone; else the user's and then the system's. Raises
    ``PathError`` for a chosen path that is too long.
    """
    chosen = explicit or env.get(SOCKET_VARIABLE, "")
    if chosen:
        return [check_socket_path(absolute(chosen))]
    said = said_state_dir(env)
    if said is not None:
        return [check_socket_path(socket_path(said))]
    return [socket_path(state_dir(env)), SYSTEM_SOCKET]


def default_project(explicit: str | None, env: Mapping[str, str], cwd: Path | None) -> str:
    """The argument, else ``TALLYMARK_PROJECT``, else the directory's project.

    ``cwd`` is None when the working directory has been removed.
    """
    if explicit:
        return explicit
    if env.get(PROJECT_VARIABLE):
        return env[PROJECT_VARIABLE]
    return project_of_directory(cwd) if cwd is not None else UNNAMED_PROJECT


def project_of_directory(path: Path) -> str:
    """The project that work in ``path`` belongs to.

    In a git repository it is the name of the main working tree's folder, also
    from a subdirectory or a linked worktree; a submodule is a project of its
    own; a worktree of a bare repository has the repository's name without
    ``.git``. Anywhere else, and for a path that does not exist, it is the
    directory's own name.
    """
    path = path.absolute()
    # Here and below, what may not be looked at is as if it were not there.
    if not os.path.isdir(path):
        return _text(path)
    path = Path(os.path.realpath(path))
    for folder in (path, *path.parents):
        name = _repository_name(folder)
        if name:
            return name
    return _text(path)


def _repository_name(folder: Path) -> str:
    """The project's name when ``folder`` is the top of a working tree, else empty."""
    marker = folder / ".git"
    if _is_git_dir(marker):
        return _text(folder)
    line = _read_line(marker)
    if not line.startswith("gitdir:"):
        return ""
    git_dir = Path(os.path.normpath(folder / line.removeprefix("gitdir:").strip()))
    common = _common_dir(git_dir)
    return _name_of_git_dir(common) if common is not None else _text(folder)


def _is_git_dir(marker: Path) -> bool:
    """Whether a repository is kept there, or what only another user may look into."""
    try:
        return stat.S_ISREG((marker / "HEAD").stat().st_mode)
    except PermissionError:
        return os.path.isdir(marker)
    except (OSError, ValueError):
        return False


def _common_dir(git_dir: Path) -> Path | None:
    """The repository's own directory for a linked worktree's; None for any other."""
    line = _read_line(git_dir / "commondir")
    if line:
        return Path(os.path.normpath(git_dir / line))
    # Its repository may be out of reach, as in a container; the path still tells.
    # (A submodule kept in a folder "worktrees" has its git directory within reach.)
    lost_worktree = git_dir.parent.name == "worktrees" and not os.path.isdir(git_dir)
    return git_dir.parent.parent if lost_worktree else None


def _name_of_git_dir(common: Path) -> str:
    """``proj`` for proj/.git, proj.git, proj/.bare and super/.git/modules/proj."""
    if common.name.startswith("."):
        return _text(common.parent)
    return _text(common).removesuffix(".git")


def _read_line(path: Path) -> str:
    """The first line of a small file; empty when there is none that can be read."""
    try:
        with path.open("rb") as file:
            head = file.read(GIT_FILE_BYTES_MAX)
    except (OSError, ValueError):
        return ""
    return os.fsdecode(head).partition("\n")[0].strip()


def _text(path: Path) -> str:
    """A path's last name as text that a project's name can be."""
    name = os.fsencode(path.name).decode("utf-8", "replace")
    if not name.isprintable():
        name = "".join(map(_printable, name))
    return name if name.strip() else UNNAMED_PROJECT


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    return " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"
