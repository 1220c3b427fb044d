from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tallymark.errors import UsageError
from tallymarkd.server.launchd import LaunchdError, activate

STAND_IN = r"""
#include <stddef.h>

/* What the next call does: set by the test. */
int result, given[4], asked;
size_t given_count;
char name_asked[64];

/* The array that is handed out, and the one that came back. */
int array[4];
void *freed;

int launch_activate_socket(const char *name, int **fds, size_t *cnt) {
    size_t i;
    asked++;
    for (i = 0; name[i] && i < sizeof name_asked - 1; i++) name_asked[i] = name[i];
    name_asked[i] = 0;
    if (result) return result;
    for (i = 0; i < given_count; i++) array[i] = given[i];
    *fds = array;
    *cnt = given_count;
    return 0;
}

void free(void *pointer) { freed = pointer; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("launchd")
    source, built = folder / "stand_in.c", folder / "stand_in.so"
    source.write_text(STAND_IN)
    flags = ["-shared", "-fPIC", "-fno-builtin", "-Wall", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", built, source], check=True, timeout=120)
    return str(built)


class StandIn:
    """launchd, as far as the process sees it."""

    def __init__(self, library: str) -> None:
        self._loaded = ctypes.CDLL(library)

    def will(self, *fds: int, result: int = 0) -> None:
        (ctypes.c_int * 4).in_dll(self._loaded, "given")[: len(fds)] = list(fds)
        ctypes.c_size_t.in_dll(self._loaded, "given_count").value = len(fds)
        self._int("result").value = result
        ctypes.c_void_p.in_dll(self._loaded, "freed").value = None
        self._int("asked").value = 0

    def _int(self, name: str) -> ctypes.c_int:
        return ctypes.c_int.in_dll(self._loaded, name)

    @property
    def asked(self) -> tuple[int, bytes]:
        name: Any = (ctypes.c_char * 64).in_dll(self._loaded, "name_asked")
        return self._int("asked").value, name.value

    @property
    def freed(self) -> bool:
        array = ctypes.addressof((ctypes.c_int * 4).in_dll(self._loaded, "array"))
        return ctypes.c_void_p.in_dll(self._loaded, "freed").value == array

    @property
    def freed_anything(self) -> bool:
        return ctypes.c_void_p.in_dll(self._loaded, "freed").value is not None


@pytest.fixture
def launchd(library: str) -> StandIn:
    return StandIn(library)


def test_it_gives_every_socket_and_frees_the_array(
    launchd: StandIn, library: str, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind(str(tmp_path / "a"))
        for each in (one, two):
            os.set_inheritable(each.fileno(), True)
        launchd.will(one.fileno(), two.fileno())
        assert activate("tallymarkd", library) == [one.fileno(), two.fileno()]
        assert not any(os.get_inheritable(each.fileno()) for each in (one, two))
    assert launchd.asked == (1, b"tallymarkd")
    assert launchd.freed


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        (errno.ENOENT, "has no socket of that name"),
        (errno.ESRCH, "launchd did not start this process"),
        (errno.EALREADY, "taken already"),
        (errno.EINVAL, os.strerror(errno.EINVAL)),
    ],
)
def test_each_error_is_told(launchd: StandIn, library: str, result: int, cause: str) -> None:
    launchd.will(result=result)
    with pytest.raises(LaunchdError, match="cannot take the socket tallymarkd") as caught:
        activate("tallymarkd", library)
    assert cause in str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert not launchd.freed_anything


def test_no_socket_at_all_is_an_error_and_still_freed(launchd: StandIn, library: str) -> None:
    launchd.will()
    with pytest.raises(LaunchdError, match="it gave none"):
        activate("tallymarkd", library)
    assert launchd.freed


@pytest.mark.parametrize("library", [None, "/nowhere/libnone.so"])
def test_without_launchd_it_says_so(library: str | None) -> None:
    if library is None and sys.platform == "darwin":
        pytest.skip("not on this platform: macOS has the function")
    with pytest.raises(LaunchdError, match="--launchd is for a LaunchAgent on macOS"):
        activate("tallymarkd", library)
