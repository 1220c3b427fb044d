"""The ``tallymarkd`` command: settings in, exit code out.

Exit codes: 0 stopped well; 2 a wrong option, setting or path; 1 what failed
at the start; 70 a fault in the daemon itself; 74 a disk that failed under the journal
or under the index of keys.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping

import click

from tallymark.errors import TallymarkError, UsageError
from tallymarkd._version import __version__
from tallymarkd.config import CONFIG_VARIABLE, SETTINGS, Settings, load_settings
from tallymarkd.logs import is_journal, last_word, set_up_logging
from tallymarkd.setting import UNITS, Setting
from tallymarkd.streams import provide_streams
from tallymarkd.text import one_line, short_quotes

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOFTWARE = 70
EXIT_INTERRUPTED = 130

Run = Callable[[Settings], int]

log = logging.getLogger("tallymarkd")


def _option(setting: Setting) -> click.Option:
    name, kind = setting.name, setting.kind
    text = setting.about.text
    if kind == "bool":
        declared = [name, f"{setting.option}/--no-{setting.option[2:]}"]
        return click.Option(declared, default=None, is_flag=True, help=text)
    shown = setting.show(setting.default) if setting.default is not None else None
    metavar = {"path": "PATH", "str": "|".join(setting.about.choices)}.get(
        kind, "SIZE" if setting.in_bytes else "N"
    )
    text += f"  [default: {shown}]" if shown else ""
    return click.Option([name, setting.option], default=None, metavar=metavar, help=text)


def _options() -> list[click.Parameter]:
    return [
        click.Option(
            ["config", "--config"], metavar="FILE", help="read settings from this TOML file"
        ),
        click.Option(
            ["check_config", "--check-config"],
            is_flag=True,
            help="show the settings in force and where each comes from, and stop",
        ),
        *(_option(setting) for setting in SETTINGS),
    ]


EPILOG = f"""A setting is taken from its option, else from its variable (TALLYMARK_ and
the name in capitals: TALLYMARK_LOG_LEVEL), else from the TOML file (--config or
{CONFIG_VARIABLE}, else ~/.config/tallymark/tallymarkd.toml), else its default.
Sizes are bytes, or have {UNITS}."""


def make_command(env: Mapping[str, str], run: Run | None = None) -> click.Command:
    """The command, reading ``env``. ``run`` stands in for the daemon in tests."""

    def callback(check_config: bool, **given: str | bool | None) -> int:
        options = {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in given.items()
        }
        return start(options, env, check_only=check_config, run=run or _run)

    command = click.Command(
        "tallymarkd",
        params=_options(),
        callback=callback,
        help="Keep the record of what the agents on this machine did. Runs in the foreground.",
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    return click.version_option(__version__, message="tallymarkd %(version)s")(command)


def start(
    options: Mapping[str, str | None],
    env: Mapping[str, str],
    *,
    check_only: bool,
    run: Run,
) -> int:
    """Load the settings, then run the daemon, or only say what the settings are."""
    try:
        settings = load_settings(options, env)
    except (UsageError, OSError) as error:
        return _fail(error, EXIT_USAGE)
    if check_only:
        click.echo(describe(settings))
        return 0
    set_up_logging(settings.log_level, settings.log_format, env=env)
    try:
        return run(settings)
    except UsageError as error:
        return _fail(error, EXIT_USAGE, settings)
    except (TallymarkError, OSError) as error:
        return _fail(error, EXIT_FAILED, settings)
    except Exception as error:  # noqa: BLE001 - told with its traceback, exit 70
        return _crash(error, settings)


def _run(settings: Settings) -> int:
    """The daemon; imported only now, so that --version and --help are quick."""
    app = importlib.import_module("tallymarkd.app")
    code: int = app.run(settings)
    return code


def describe(settings: Settings) -> str:
    """Every setting in force, one a line, as TOML, with where it comes from."""
    rows = []
    for setting in SETTINGS:
        value = getattr(settings, setting.name)
        shown = setting.show(value)
        if setting.kind in ("path", "str") or not shown.replace(".", "").isalnum():
            shown = _toml_string(shown)
        rows.append((f"{setting.name} = {shown}", settings.origins[setting.name]))
    width = max(len(row) for row, origin in rows if len(row) < 60)
    lines = [f"{row:<{width}}  # {origin}" for row, origin in rows]
    file = settings.config or "none"
    return "\n".join([f"# configuration file: {file}", *lines])


def _toml_string(text: str) -> str:
    """A TOML basic string; its escapes are those of JSON for what a path can hold."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{one_line(escaped)}"'


def explain(error: Exception) -> str:
    """One line that begins with what could not be done."""
    if isinstance(error, OSError) and not isinstance(error, TallymarkError):
        place = f"{error.filename}: " if error.filename is not None else ""
        text = f"{place}{error.strerror or error}"
    else:
        text = str(error) or type(error).__name__
    text = one_line(text)
    return text if text.startswith("cannot ") else f"cannot start: {text}"


def _fail(error: Exception, code: int, settings: Settings | None = None) -> int:
    if settings is not None and settings.log_format == "json":
        log.critical("%s", explain(error))
    else:
        _say(explain(error))
    return code


def _say(text: str) -> None:
    click.echo(last_word(f"tallymarkd: {text}", env=os.environ), err=True)


def _crash(error: Exception, settings: Settings) -> int:
    text = "cannot go on: a fault in tallymarkd itself; please report what stands here"
    if settings.log_format == "json" or is_journal(sys.stderr, os.environ):
        log.critical(text, exc_info=error)
    else:
        traceback.print_exception(error)
        _say(text)
    return EXIT_SOFTWARE


def main() -> None:
    """Entry point of the ``tallymarkd`` command."""
    provide_streams()
    command = make_command(os.environ)
    try:
        # command.main would also print an empty line when interrupted.
        with command.make_context("tallymarkd", sys.argv[1:]) as ctx:
            code = command.invoke(ctx)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.ClickException as error:
        _say(f"cannot start: {_click_text(error)}")
        code = EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    sys.exit(code)


def _click_text(error: click.ClickException) -> str:
    text = short_quotes(one_line(error.format_message())).rstrip(".")
    return f"{text[:1].lower()}{text[1:]}; tallymarkd --help lists the options"


if __name__ == "__main__":
    main()
