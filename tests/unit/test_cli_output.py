from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from rich.table import Table

from tallymarkd.cli import output

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0k"),
        (999_949, "999.9k"),
        (999_950, "1.0M"),
        (28_874_815, "28.9M"),
        (3 * 10**9, "3.0G"),
        (10**15, "1.0P"),
    ],
)
def test_compact_numbers(number: int, shown: str) -> None:
    assert output.compact(number) == shown


def test_whole_numbers_have_their_thousands_apart() -> None:
    assert output.count(28_874_815) == "28,874,815"


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        (0, "$0.00"),
        (0.00001, "<$0.0001"),
        (0.0042, "$0.0042"),
        (0.5, "$0.5000"),
        (1.005, "$1.00"),
        (29.859, "$29.86"),
        (12345.6, "$12,345.60"),
    ],
)
def test_money(cost: float, shown: str) -> None:
    assert output.dollars(cost) == shown


@pytest.mark.parametrize(
    ("cost", "unpriced", "shown"),
    [(0, 0, "$0.00"), (0, 2, "?"), (3, 2, "≥ $3.00"), (3, 0, "$3.00"), (1e-9, 1, "≥ $0.0001")],
)
def test_a_cost_of_which_something_is_unknown(cost: float, unpriced: int, shown: str) -> None:
    assert output.cost_of(cost, unpriced) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(None, "-"), (0, "0%"), (0.001, "<1%"), (0.64, "64%"), (0.999, ">99%"), (1, "100%")],
)
def test_a_share_is_never_rounded_to_none_or_all(share: float | None, shown: str) -> None:
    assert output.percent(share) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 * 1024, "1.5 MiB"), (2**41, "2.0 TiB")],
)
def test_sizes(number: int, shown: str) -> None:
    assert output.size(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 7200, "3 d 2 h"),
    ],
)
def test_spans_of_time(seconds: float, shown: str) -> None:
    assert output.span(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "now"), (0.5, "now"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"),
     (86400 * 59, "59 d ago")],
)  # fmt: skip
def test_how_long_ago(seconds: float, shown: str) -> None:
    assert output.ago(NOW - timedelta(seconds=seconds), NOW) == shown


def test_what_is_long_ago_has_its_date() -> None:
    assert output.ago("2025-01-15T12:00:00Z", NOW) == "2025-01-15"


@pytest.mark.parametrize("time", [None, "", "yesterday"])
def test_no_time_is_shown_as_such(time: str | None) -> None:
    assert output.ago(time, NOW) == output.NOTHING
    assert output.local(time) == output.NOTHING


def test_a_time_without_a_zone_is_taken_as_utc() -> None:
    assert output.as_time("2026-05-04T12:00:00") == NOW


def test_json_is_indented_and_bytes_pass(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"a": [1]})
    output.print_json(b'{"b":"\xc3\xa9"}')
    assert capsys.readouterr().out == '{\n  "a": [\n    1\n  ]\n}\n{\n  "b": "é"\n}\n'


def test_messages_stay_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("two\nlines\x1b[2J")
    assert capsys.readouterr().err == "two\\nlines\\x1b[2J\n"


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_escape_codes_where_they_are_not_wanted(
    env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stdout", stream)
    output.make_console({}).print("bold", style="bold red")
    assert "\x1b[" in stream.getvalue()
    stream.seek(0)
    stream.truncate()
    output.make_console(env).print("bold", style="bold red")
    assert stream.getvalue() == "bold\n"


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.make_console({}).print("[red]agent[/red] :smile:")
    assert capsys.readouterr().out == "[red]agent[/red] :smile:\n"


def test_the_first_table_that_fits_is_taken() -> None:
    def table(cell: str) -> Table:
        made = Table(cell, box=None, padding=0)
        made.add_row(cell)
        return made

    wide, narrow, narrowest = table("x" * 30), table("x" * 20), table("x" * 10)
    for width, right in ((30, wide), (29, narrow), (20, narrow), (19, narrowest), (5, narrowest)):
        console = Console(width=width)
        assert output.first_that_fits(console, [wide, narrow, narrowest]) is right


def test_rows_stand_below_a_title_each_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_rows("it\n: whole", [("name", "a\nvalue")], ["line\rtwo"])

    assert capsys.readouterr().out == "it\\n: whole\n  name         a\\nvalue\n  line\\rtwo\n"
