"""What launchd.plist(5) of macOS 14 allows: every key with the type of its value.

No program outside of macOS knows these keys. A type is a Python type, a set of
the strings allowed, a tuple of alternatives, ``ListOf`` one type, ``DictOf`` one
type under any name, or a dict of the keys allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ListOf:
    """An array."""

    type: Any


@dataclass(frozen=True)
class DictOf:
    """A dictionary whose keys are names of the job's own."""

    type: Any


_RESOURCES = "Core CPU Data FileSize MemoryLock NumberOfFiles NumberOfProcesses"
LIMITS = dict.fromkeys([*_RESOURCES.split(), "ResidentSetSize", "Stack"], int)
SOCKET: dict[str, Any] = {
    "SockType": {"dgram", "stream", "seqpacket"},
    "SockPassive": bool,
    "SockNodeName": str,
    "SockServiceName": str,
    "SockFamily": {"IPv4", "IPv6", "IPv4v6", "Unix"},
    "SockProtocol": {"TCP", "UDP"},
    "SockPathName": str,
    "SecureSocketWithKey": str,
    "SockPathOwner": int,
    "SockPathGroup": int,
    "SockPathMode": int,
    "Bonjour": (bool, str, ListOf(str)),
    "MulticastGroup": str,
}
KEEP_ALIVE: dict[str, Any] = {
    "SuccessfulExit": bool,
    "Crashed": bool,
    "NetworkState": bool,
    "PathState": DictOf(bool),
    "OtherJobEnabled": DictOf(bool),
    "AfterInitialDemand": bool,
}
CALENDAR = dict.fromkeys(["Minute", "Hour", "Day", "Weekday", "Month"], int)
SESSIONS = {"Aqua", "Background", "LoginWindow", "StandardIO", "System"}

KEYS: dict[str, Any] = {
    "Label": str,
    "Disabled": bool,
    "UserName": str,
    "GroupName": str,
    "inetdCompatibility": {"Wait": bool, "Instances": int},
    "LimitLoadToHosts": ListOf(str),
    "LimitLoadFromHosts": ListOf(str),
    "LimitLoadToSessionType": (SESSIONS, ListOf(SESSIONS)),
    "LimitLoadToHardware": DictOf(ListOf(str)),
    "LimitLoadFromHardware": DictOf(ListOf(str)),
    "Program": str,
    "BundleProgram": str,
    "ProgramArguments": ListOf(str),
    "EnableGlobbing": bool,
    "EnableTransactions": bool,
    "EnablePressuredExit": bool,
    "OnDemand": bool,
    "ServiceIPC": bool,
    "KeepAlive": (bool, KEEP_ALIVE),
    "RunAtLoad": bool,
    "RootDirectory": str,
    "WorkingDirectory": str,
    "EnvironmentVariables": DictOf(str),
    "Umask": (int, str),
    "TimeOut": int,
    "ExitTimeOut": int,
    "ThrottleInterval": int,
    "InitGroups": bool,
    "WatchPaths": ListOf(str),
    "QueueDirectories": ListOf(str),
    "StartOnMount": bool,
    "StartInterval": int,
    "StartCalendarInterval": (CALENDAR, ListOf(CALENDAR)),
    "StandardInPath": str,
    "StandardOutPath": str,
    "StandardErrorPath": str,
    "Debug": bool,
    "WaitForDebugger": bool,
    "SoftResourceLimits": LIMITS,
    "HardResourceLimits": LIMITS,
    "Nice": int,
    "ProcessType": {"Background", "Standard", "Adaptive", "Interactive"},
    "AbandonProcessGroup": bool,
    "LowPriorityIO": bool,
    "LowPriorityBackgroundIO": bool,
    "MaterializeDatalessFiles": bool,
    "LaunchOnlyOnce": bool,
    "MachServices": DictOf((bool, {"ResetAtClose": bool, "HideUntilCheckIn": bool})),
    "Sockets": DictOf((SOCKET, ListOf(SOCKET))),
    "LaunchEvents": DictOf(DictOf(dict)),
    "SessionCreate": bool,
    "LegacyTimers": bool,
    "AssociatedBundleIdentifiers": (str, ListOf(str)),
}

REQUIRED = ("Label",)


def complaints(job: Mapping[str, Any]) -> list[str]:
    """What launchd would not take, or would silently ignore, one line each."""
    found = [f"{key}: is missing" for key in REQUIRED if key not in job]
    if not {"Program", "ProgramArguments", "BundleProgram"} & set(job):
        found.append("Program or ProgramArguments: is missing")
    return found + list(_check("", job, KEYS))


def _check(where: str, value: Any, allowed: Any) -> Iterator[str]:
    if isinstance(allowed, tuple):
        answers = [list(_check(where, value, one)) for one in allowed]

        # What is right as a whole, and wrong inside, tells more than another type.
        def rank(answer: list[str]) -> tuple[bool, bool]:
            return bool(answer), any(line.startswith(f"{where}: must be") for line in answer)

        yield from min(answers, key=rank)
    elif isinstance(allowed, ListOf):
        yield from _check_list(where, value, allowed)
    elif isinstance(allowed, set):
        if not isinstance(value, str):
            yield f"{where}: must be str, is {type(value).__name__}"
        elif value not in allowed:
            yield f"{where}: {value!r} is none of {', '.join(sorted(allowed))}"
    elif isinstance(allowed, DictOf | dict):
        yield from _check_dict(where, value, allowed)
    # A bool is an int to Python, not to launchd.
    elif type(value) is not allowed:
        yield f"{where}: must be {allowed.__name__}, is {type(value).__name__}"


def _check_list(where: str, value: Any, allowed: ListOf) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{where}: must be list, is {type(value).__name__}"
        return
    for at, one in enumerate(value):
        yield from _check(f"{where}[{at}]", one, allowed.type)


def _check_dict(where: str, value: Any, allowed: DictOf | dict[str, Any]) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where}: must be dict, is {type(value).__name__}"
        return
    for key, one in value.items():
        inner = f"{where}.{key}" if where else key
        if isinstance(allowed, DictOf):
            yield from _check(inner, one, allowed.type)
        elif key in allowed:
            yield from _check(inner, one, allowed[key])
        else:
            yield f"{inner}: there is no such key"
