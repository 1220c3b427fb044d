"""Hands a listening socket to a daemon, as systemd does: ``python activated.py PATH PROGRAM …``.

The socket is this process's third descriptor; it becomes PROGRAM, which finds it there.
PATH may be ``fd:N``, a listening socket that this process has inherited.
"""

from __future__ import annotations

import os
import socket
import sys

FIRST_FD = 3


def main() -> None:
    """Bind or take the socket, say in the environment that it is there, and become PROGRAM."""
    where, *program = sys.argv[1:]
    if where.startswith("fd:"):
        sock = socket.socket(fileno=int(where.removeprefix("fd:")))
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(where)
        sock.listen(1024)
    if sock.fileno() == FIRST_FD:
        os.set_inheritable(FIRST_FD, True)
    else:
        os.dup2(sock.fileno(), FIRST_FD, inheritable=True)
    here = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "tallymarkd"}
    os.execve(program[0], program, {**os.environ, **here})


if __name__ == "__main__":
    main()
