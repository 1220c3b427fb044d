"""The units as installed by default: ``systemd/`` and ``launchd/``, from the templates.

``make units`` (``.venv/bin/python -m tests.default_units``) writes them anew.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from tallymarkd.service import plist, render

ROOT = Path(__file__).resolve().parent.parent
USER_STATE = "%h/.local/state/tallymark"
MAC_HOME = PurePosixPath("/Users/you")
MAC_STATE = MAC_HOME / "Library" / "Application Support" / "tallymark"


def default_units() -> dict[str, str]:
    """Every file by its path in the repository."""
    user = render.user_units(
        daemon="%h/.local/bin/tallymarkd",
        state_dir=USER_STATE,
        spool_dir=f"{USER_STATE}/spool",
        socket=f"{USER_STATE}/run/tallymark.sock",
        writable=USER_STATE,
    )
    system = render.system_units(
        daemon="/usr/local/bin/tallymarkd", socket="/run/tallymark/tallymark.sock"
    )
    agent = plist.launch_agent(
        daemon=MAC_HOME / ".local" / "bin" / "tallymarkd",
        state_dir=MAC_STATE,
        spool_dir=MAC_STATE / "spool",
        socket=MAC_STATE / "run" / "tallymark.sock",
        log_dir=MAC_HOME / "Library" / "Logs" / "tallymark",
    )
    return {
        **{f"systemd/user/{name}": text for name, text in user.items()},
        **{f"systemd/system/{name}": text for name, text in system.items()},
        f"systemd/sysusers.d/{render.SYSUSERS}": render.sysusers(),
        f"launchd/{plist.FILE_NAME}": plist.to_text(agent),
    }


def main() -> None:
    """Write them."""
    for name, text in default_units().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
