"""``tallymark service install`` and ``uninstall``, as numbered steps."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from tallymark.errors import DeliveryError, TallymarkError, UsageError
from tallymark.fs import FileSystem, is_locked, is_socket
from tallymarkd.config import load_settings
from tallymarkd.core.layout import Layout
from tallymarkd.service import unit_files
from tallymarkd.service.installation import Installation
from tallymarkd.service.launchctl import Launchd
from tallymarkd.service.machine import Machine, Ran, ServiceError
from tallymarkd.service.managers import Condition, Manager, failed, perform
from tallymarkd.service.places import Places, system_places, user_places
from tallymarkd.service.systemd import SystemSystemd, UserSystemd

Tell = Callable[[str, str], None]
"""Takes a word for what was done, and what it was done to."""


def places_for(machine: Machine, *, system: bool, state_dir: Path | None) -> Places:
    """Where the service has its files. Raises ``UsageError`` for what cannot be."""
    if not system:
        return user_places(machine, state_dir)
    if state_dir is not None:
        raise UsageError(
            "cannot use --state-dir with --system: the system's service keeps its state in "
            "/var/lib/tallymark"
        )
    return system_places()


def manager_for(
    machine: Machine, fs: FileSystem, installed: Installation, places: Places, *, system: bool
) -> Manager:
    """The manager that this platform has. Raises ``UsageError``, ``ServiceError``."""
    if machine.platform == "darwin":
        if system:
            raise UsageError(
                "cannot use --system on macOS: there tallymarkd is a LaunchAgent of one user; "
                "leave out --system"
            )
        return Launchd(machine, fs, installed, places)
    if not machine.platform.startswith("linux"):
        raise ServiceError(
            f"cannot handle services on {machine.platform}: only systemd and launchd are known; "
            "run tallymarkd in the foreground under the supervisor that there is"
        )
    kind = SystemSystemd if system else UserSystemd
    return kind(machine, fs, installed, places)


def dry_run(manager: Manager, tell: Tell) -> None:
    """Tell what ``install`` would write and run; nothing is changed.

    Where ``install`` would be refused it tells the same first, as for a machine on which
    all is well, then raises as ``install`` would: an image is built on such machines.
    """
    refusal: TallymarkError | None = None
    try:
        manager.check()
        files = manager.files()
    except (ServiceError, UsageError) as error:
        refusal, files = error, manager.usual_files()
    for path, text in files.items():
        tell("file", f"{path}\n{text}")
    # As if there were nothing yet: what would really run depends on how far that goes.
    before = Condition(listening=False, running=False, enabled=False)
    for step in manager.after_writing(frozenset(files), before):
        tell("run", " ".join(step.command))
    if refusal is not None:
        raise refusal


def install(
    machine: Machine, fs: FileSystem, manager: Manager, places: Places, *, system: bool, tell: Tell
) -> None:
    """Install, or bring up to date. Raises ``ServiceError``, ``UsageError``, ``StorageError``.

    1. The manager can be reached.
    2. The state directory and the settings will do, and no other tallymarkd runs there.
    3. No file is in the way that is not ours.
    4. Files are written, those that differ.
    5. The manager takes them, and listens.
    6. tallymarkd answers: it starts by that.
    """
    manager.check()
    before = manager.condition()
    _prepare(fs, places, system=system)
    _check_settings(machine, places, system=system)
    if not before.running:
        _refuse_others(machine, places, before)
    old = manager.state_dir()
    files = manager.files()
    unit_files.refuse_foreign(fs, files)
    changed = set()
    for path, text in files.items():
        found = unit_files.look(fs, path, text)
        if found != "current":
            unit_files.write(fs, path, text, directory_mode=manager.directory_mode)
            changed.add(path)
        tell({"current": "unchanged", "missing": "written"}.get(found, "updated"), str(path))
    if old != manager.state_dir():
        tell("note", f"the state was in {old}, and stays there: from now on it is kept in "
             f"{manager.state_dir()}")  # fmt: skip
    for step in manager.after_writing(changed, before):
        perform(machine, step, "install the service")
        tell("ran", " ".join(step.command))
    _see_it_answer(machine, manager, tell)


def _refuse_others(machine: Machine, places: Places, before: Condition) -> None:
    """Raises ``ServiceError`` when a tallymarkd runs that the manager has not started."""
    pid = None
    # A socket that the manager holds would start the daemon, and not tell of another.
    if not before.listening and is_socket(places.socket):
        with contextlib.suppress(DeliveryError):
            pid = machine.ask(places.socket).report.get("pid", 0)
    if pid is None and not is_locked(Layout(places.state_dir).lock):
        return
    who = f"tallymarkd (pid {pid})" if pid else "a tallymarkd"
    how = f"kill {pid}" if pid else "end it with SIGTERM, or Ctrl-C in its terminal"
    raise ServiceError(
        f"cannot install the service: {who} that was started otherwise runs on "
        f"{places.state_dir}; stop it ({how}), and try again"
    )


def _prepare(fs: FileSystem, places: Places, *, system: bool) -> None:
    """The directories of a user's service; the system's are made by systemd."""
    # psutil is slow to import, and only this command needs it.
    from tallymarkd.place import refuse_unsafe

    refuse_unsafe(places.state_dir)
    if system:
        return
    for folder in (places.state_dir, places.spool_dir):
        try:
            fs.mkdir(folder)
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        except OSError as error:
            raise ServiceError(
                f"cannot use {folder}: {error.strerror or error}; choose another state directory "
                "with --state-dir"
            ) from None


def _check_settings(machine: Machine, places: Places, *, system: bool) -> None:
    """Raises ``UsageError`` for a settings file with which the service would not start."""
    env = {"HOME": str(machine.home), **places.environment}
    if system:
        env = {"HOME": str(places.state_dir), "XDG_CONFIG_HOME": str(machine.root / "etc")}
    options = {"state_dir": str(places.state_dir), "spool_dir": str(places.spool_dir)}
    settings = load_settings(options, env, machine.platform)
    # What is only the default is the socket that the daemon is given.
    from_file = settings.origins["socket"] == str(settings.config)
    if from_file and settings.socket != places.socket:
        raise UsageError(
            f"cannot use socket = {settings.socket} ({settings.origins['socket']}): the service "
            f"listens on {places.socket}; take the setting out"
        )


def _see_it_answer(machine: Machine, manager: Manager, tell: Tell) -> None:
    socket = manager.socket()
    try:
        answer = machine.ask(socket)
    except DeliveryError as error:
        raise ServiceError(
            f"cannot see the installed service answer: {error}; its log: {manager.lines().log}"
        ) from None
    version = answer.report.get("version", "")
    tell("answers", f"tallymarkd {version} at {socket}, health {answer.status}")


def warm_up(machine: Machine, installed: Installation) -> None:
    """Import the daemon once, as its service cannot: it may not write compiled files.

    Raises ``ServiceError`` when the installation is not whole.
    """
    command = (str(installed.python), "-c", "import tallymarkd.app")
    done: Ran = machine.run(command)
    if done.code:
        raise ServiceError(
            f"cannot install the service: tallymarkd itself is not whole: {failed(command, done)}; "
            "install the distribution tallymark again"
        )


def uninstall(machine: Machine, fs: FileSystem, manager: Manager, tell: Tell) -> bool:
    """Stop the service and remove our files; the data stays. False: it was not installed.

    Raises ``ServiceError``, ``UsageError``.
    """
    manager.check()
    state_dir = manager.state_dir()
    ours = []
    for path in manager.paths():
        text = unit_files.read(fs, path)
        if text is not None and unit_files.is_ours(text):
            ours.append(path)
        elif text is not None:
            tell("kept", f"{path}: it is not from `tallymark service install`")
    if not ours:
        return False
    for step in manager.before_removing():
        perform(machine, step, "stop the service")
        tell("ran", " ".join(step.command))
    for path in ours:
        unit_files.remove(fs, path)
        tell("removed", str(path))
    for step in manager.after_removing():
        perform(machine, step, "remove the service")
        tell("ran", " ".join(step.command))
    for path in ours:
        drop_ins = path.with_name(f"{path.name}.d")
        if fs.exists(drop_ins):
            tell("kept", f"{drop_ins}: changes that you made")
    tell("kept", f"{state_dir}: what was recorded")
    return True
