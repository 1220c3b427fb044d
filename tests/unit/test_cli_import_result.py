from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tallymark.events import Usage
from tallymarkd.cli.import_result import SESSIONS_SHOWN, Costs, print_result, remarks
from tallymarkd.cli.place import Place
from tallymarkd.cli.recording import Outcome
from tests.claude_files import Files, answer, said

PLACE = Place(None, None, False, {})


def many_sessions(tmp_path: Path, count: int) -> Files:
    files = Files(tmp_path)
    for number in range(count):
        name = f"{number:08}-long-session-id"
        files.write(name, said("do"), answer(f"r{number}", 1_000_000), sessionId=name)
    return files


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_costs_are_summed_for_session_agent_and_whole() -> None:
    costs = Costs()
    priced = {"model_used": "claude-opus-4-6", "input_tokens": 1000, "output_tokens": 1000}
    at = datetime(2026, 5, 4, tzinfo=UTC)
    costs.add(Usage(session_id="a", agent_name="x", at=at, **priced))  # type: ignore[arg-type]
    costs.add(Usage(session_id="b", agent_name="x", at=at, **priced))  # type: ignore[arg-type]
    costs.add(Usage(session_id="b", agent_name="y", at=at, model_used="nobody's", input_tokens=1))
    each = costs.sessions["a"].nanos
    assert each > 0
    assert costs.sessions["b"].nanos == each
    assert costs.agents["x"].nanos == costs.total.nanos == 2 * each
    assert (costs.sessions["a"].unpriced, costs.sessions["b"].unpriced) == (0, 1)
    assert (costs.agents["x"].unpriced, costs.agents["y"].unpriced) == (0, 1)
    assert costs.total.unpriced == 1
    assert costs.total.dollars == costs.total.nanos / 1e9


def test_of_very_many_sessions_the_last_are_shown_and_all_are_summed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = many_sessions(tmp_path, SESSIONS_SHOWN + 3).plan()
    print_result(PLACE, plan, Outcome(stored=5), Costs())
    lines = lines_of(capsys)
    assert "(3 more)" in [line.strip() for line in lines]
    assert sum(line.startswith("000000") for line in lines) == SESSIONS_SHOWN
    assert not any(line.startswith("00000002") for line in lines)
    total = next(line for line in lines if line.startswith("total")).split()
    assert total[1:3] == [str(SESSIONS_SHOWN + 3)] * 2
    assert total[6] == "33,000,000"


@pytest.mark.parametrize("width", [80, 60, 45])
def test_on_a_terminal_no_figure_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    plan = many_sessions(tmp_path, 9).plan()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    place = Place(None, None, False, {"NO_COLOR": "1"})
    print_result(place, plan, Outcome(), Costs())
    lines = lines_of(capsys)
    assert [line for line in lines if len(line) > width] == []
    assert "…" not in "".join(lines)
    total = next(line for line in lines if line.startswith("total")).split()
    assert total[1:3] == ["9", "9"]
    if width < 80:
        assert "cost" in "".join(lines)
    else:
        assert total[6] == "9,000,000"
        assert len(total) == 9


def test_remarks_say_what_was_left_out(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.write("one", said("do"), answer("a"), b"{broken", live=True)
    report = files.plan().report
    report.unreadable["/x.jsonl"] = "Permission denied"
    outcome = Outcome(rejected=Counter({"too_large": 2}))
    found = "\n".join(remarks(report, outcome))
    assert "1 run and 1 response" in found
    assert "wait for the next import" in found
    assert "cannot read /x.jsonl: Permission denied" in found
    assert "tallymarkd rejected 2 events: too_large" in found
    assert remarks(many_sessions(tmp_path / "whole", 1).plan().report, Outcome()) == []
