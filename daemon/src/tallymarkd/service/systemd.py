"""systemd as the manager: a user's, or the system's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from tallymark.errors import UsageError
from tallymark.paths import SYSTEM_SOCKET, SYSTEM_STATE_DIR
from tallymarkd.service import installation, render, unit_files
from tallymarkd.service.machine import ServiceError
from tallymarkd.service.managers import Condition, Lines, OnMachine, Step
from tallymarkd.service.render import SERVICE, SOCKET, SYSUSERS

LISTEN = "ListenStream="


class _Systemd(OnMachine):
    """What both have in common."""

    scope: tuple[str, ...]

    def _systemctl(self, *args: str) -> tuple[str, ...]:
        return ("systemctl", *self.scope, *args)

    def _show(self, unit: str, *names: str) -> dict[str, str]:
        wanted = [f"--property={name}" for name in names]
        done = self._machine.run(self._systemctl("show", *wanted, *([unit] if unit else [])))
        if done.code:
            raise ServiceError(self._unreachable(done.cause))
        pairs = (line.partition("=") for line in done.out.splitlines())
        return {name: value for name, _, value in pairs}

    def _unreachable(self, cause: str) -> str:
        return f"cannot reach systemd: {cause}"

    def check(self) -> None:
        if not (self._machine.root / "run/systemd/system").is_dir():
            raise ServiceError(
                "cannot use systemd: this machine was not started by it; run tallymarkd in the "
                "foreground under the supervisor that there is"
            )
        self._show("", "Version")

    def condition(self) -> Condition:
        names = ("ActiveState", "Result", "UnitFileState")
        socket, service = self._show(SOCKET, *names), self._show(SERVICE, *names)
        failed = [
            f"{name}: {found.get('Result')}"
            for name, found in ((SOCKET, socket), (SERVICE, service))
            if found.get("ActiveState") == "failed"
        ]
        return Condition(
            listening=socket.get("ActiveState") == "active",
            running=service.get("ActiveState") in ("active", "reloading", "activating"),
            enabled=socket.get("UnitFileState") == "enabled",
            failed=", ".join(failed),
        )

    def after_writing(self, changed: AbstractSet[Path], before: Condition) -> list[Step]:
        names = {path.name for path in changed}
        steps = [Step(self._systemctl("daemon-reload"))] if names else []
        if before.failed:
            steps.append(Step(self._systemctl("reset-failed", SOCKET, SERVICE), may_fail=True))
        if SOCKET in names and before.listening:
            steps.append(Step(self._systemctl("stop", SOCKET, SERVICE)))
        elif SERVICE in names and before.running:
            steps.append(Step(self._systemctl("try-restart", SERVICE)))
        return [*steps, Step(self._systemctl("enable", "--now", SOCKET))]

    def before_removing(self) -> list[Step]:
        return [
            Step(self._systemctl("disable", "--now", SOCKET), may_fail=True),
            Step(self._systemctl("stop", SOCKET, SERVICE), may_fail=True),
        ]

    def after_removing(self) -> list[Step]:
        return [
            Step(self._systemctl("daemon-reload")),
            Step(self._systemctl("reset-failed", SOCKET, SERVICE), may_fail=True),
        ]

    def lines(self) -> Lines:
        return Lines(
            start=" ".join(self._systemctl("start", SOCKET)),
            stop=" ".join(self._systemctl("stop", SOCKET)),
            restart=" ".join(self._systemctl("restart", SERVICE)),
            log=f"journalctl {'--user-unit' if self.scope else '--unit'} {SERVICE} --follow",
        )


class UserSystemd(_Systemd):
    """The manager of one user."""

    kind = "systemd user"
    scope = ("--user",)
    directory_mode = 0o700
    again = "tallymark service install"

    def _unreachable(self, cause: str) -> str:
        user = self._machine.user
        text = (
            f"cannot reach the systemd user manager of {user}: {cause}; log in as {user}, or let "
            f"it run without a login (as root: loginctl enable-linger {user}), and try again"
        )
        system = "; for a service of the whole system: --system"
        return text + system if self._machine.uid == 0 else text

    def _usual_directory(self) -> Path:
        return self._machine.home / ".config" / "systemd" / "user"

    def _directory(self) -> Path:
        """Where units go: by XDG_CONFIG_HOME only if the manager looks there too."""
        usual = self._usual_directory()
        given = self._machine.env.get("XDG_CONFIG_HOME", "")
        if not given.startswith("/"):
            return usual
        wanted = Path(given) / "systemd" / "user"
        found = self._show("", "UnitPath").get("UnitPath", "")
        return wanted if f" {wanted} " in f" {found} " else usual

    def paths(self) -> Sequence[Path]:
        return [self._directory() / name for name in (SOCKET, SERVICE)]

    def files(self) -> Mapping[Path, str]:
        sandbox = self._namespaces_work()
        if sandbox:
            installation.check_for_sandbox(self._installed.daemon, "tallymarkd")
            installation.check_for_sandbox(self._places.state_dir, "the state directory")
        return self._files(self._directory(), sandbox=sandbox)

    def installed_files(self) -> Mapping[Path, str]:
        """As ``files``, sandboxed if what is installed is: nothing is tried."""
        found = unit_files.read(self._fs, self._directory() / SERVICE) or ""
        return self._files(self._directory(), sandbox="PrivateUsers=yes" in found)

    def usual_files(self) -> Mapping[Path, str]:
        """As ``files``, with the sandbox, and where units of users usually are."""
        return self._files(self._usual_directory(), sandbox=True)

    def _files(self, directory: Path, *, sandbox: bool) -> dict[Path, str]:
        places = self._places
        writable = [places.state_dir]
        if not places.spool_dir.is_relative_to(places.state_dir):
            writable.append(places.spool_dir)
        texts = render.user_units(
            daemon=render.executable(self._installed.daemon),
            state_dir=render.quote(places.state_dir),
            spool_dir=render.quote(places.spool_dir),
            socket=render.literal(places.socket),
            writable=" ".join(map(render.quote, writable)),
            environment=" ".join(
                render.quote(f"{name}={value}") for name, value in places.environment.items()
            ),
            sandbox=sandbox,
        )
        return {directory / name: text for name, text in texts.items()}

    def _namespaces_work(self) -> bool:
        """Whether this user's services can have namespaces, seen by starting one."""
        wanted = [f"--property={line}" for line in render.sandbox_settings()]
        command = ("systemd-run", "--user", "--wait", "--collect", "--quiet", *wanted, "true")
        return self._machine.run(command).code == 0

    def after_removing(self) -> list[Step]:
        folder = self._directory()
        # Those that were made for the units; with anything else in them they stay.
        empty = Step(("rmdir", *map(str, (folder, *folder.parents[:2]))), may_fail=True)
        return [*super().after_removing(), empty]

    def socket(self) -> Path:
        text = unit_files.read(self._fs, self._directory() / SOCKET) or ""
        for line in text.splitlines():
            if line.startswith(LISTEN):
                return Path(line.removeprefix(LISTEN).replace("%%", "%"))
        return self._places.socket

    def state_dir(self) -> Path:
        return self.socket().parent.parent

    def notes(self) -> list[str]:
        user = self._machine.user
        said = []
        if "PrivateUsers=yes" not in (unit_files.read(self._fs, self.paths()[1]) or ""):
            said.append(
                "this system gives its users' services no namespaces: tallymarkd runs without "
                "those, and with the rest of its hardening"
            )
        lingers = self._machine.run(
            ("loginctl", "show-user", user, "--property=Linger", "--value")
        ).out.strip()
        if lingers == "no":
            said.append(
                f"tallymarkd ends when {user} has logged out everywhere; to have it also for cron "
                f"and at boot: loginctl enable-linger {user}"
            )
        return said


class SystemSystemd(_Systemd):
    """The system's manager; only root may."""

    kind = "systemd system"
    scope = ()
    directory_mode = 0o755
    again = "tallymark service install --system"

    def check(self) -> None:
        if self._machine.uid != 0:
            raise UsageError(
                "cannot handle the system's service: only root may; use sudo, or leave out "
                "--system for a service of your own"
            )
        super().check()

    def _etc(self) -> Path:
        return self._machine.root / "etc"

    def paths(self) -> Sequence[Path]:
        units = self._etc() / "systemd" / "system"
        return [self._etc() / "sysusers.d" / SYSUSERS, units / SOCKET, units / SERVICE]

    def files(self) -> Mapping[Path, str]:
        installation.check_for_system(self._installed.daemon)
        return self.installed_files()

    def installed_files(self) -> Mapping[Path, str]:
        """As ``files``; whether the system could run it is not looked at."""
        units = render.system_units(
            daemon=render.executable(self._installed.daemon), socket=str(SYSTEM_SOCKET)
        )
        texts = {SYSUSERS: render.sysusers(), **units}
        return {path: texts[path.name] for path in self.paths()}

    def usual_files(self) -> Mapping[Path, str]:
        """As ``installed_files``."""
        return self.installed_files()

    def after_writing(self, changed: AbstractSet[Path], before: Condition) -> list[Step]:
        users = Step(("systemd-sysusers", str(self.paths()[0])))
        return [users, *super().after_writing(changed, before)]

    def after_removing(self) -> list[Step]:
        nothing_left = Step(("rmdir", str(SYSTEM_SOCKET.parent)), may_fail=True)
        return [*super().after_removing(), nothing_left]

    def socket(self) -> Path:
        return SYSTEM_SOCKET

    def state_dir(self) -> Path:
        return SYSTEM_STATE_DIR

    def notes(self) -> list[str]:
        how = "usermod --append --groups tallymark NAME"
        return [
            (
                f"who is in the group tallymark may connect ({how}); for everybody: "
                "SocketMode=0666 by systemctl edit tallymarkd.socket"
            )
        ]
