from __future__ import annotations

from tallymarkd.health.pulse import LATE_SECONDS, LATE_TIMES, Lasting, Latch, Often, Pulse


def test_often_is_so_many_times_within_the_window() -> None:
    often = Often()
    for now in (0.0, 20.0):
        often.note(now, 2.0)
        assert not often.told(now)

    often.note(59.0, 1.5)

    assert often.told(59.0)
    assert often.told(60.0)
    assert not often.told(60.1)
    assert often.worst == 2.0


def test_often_is_told_for_as_long_as_it_goes_on() -> None:
    often = Often()
    for number in range(50):
        often.note(number * 20.0, 2.0)

    assert often.told(49 * 20.0)


def test_what_is_over_does_not_count_for_the_worst_of_the_next_time() -> None:
    often = Often()
    often.note(0.0, 9.0)
    often.note(70.0, 2.0)

    assert often.worst == 2.0
    assert not often.is_over(70.0)
    assert often.is_over(131.0)


def test_lasting_begins_anew_after_a_break() -> None:
    lasting = Lasting()

    assert lasting.look(True, 10.0) == 0.0
    assert lasting.look(True, 13.0) == 3.0
    assert lasting.look(False, 14.0) == 0.0
    assert lasting.look(True, 15.0) == 0.0
    assert lasting.look(True, 16.0) == 1.0


def test_a_latch_opens_only_at_the_better_limit() -> None:
    latch = Latch()

    assert not latch.look(bad=False, well=False)
    assert latch.look(bad=True, well=False)
    assert latch.look(bad=False, well=False)
    assert not latch.look(bad=False, well=True)
    assert not latch.look(bad=False, well=False)


def test_late_commits_and_late_turns_are_told_apart() -> None:
    pulse = Pulse()
    for number in range(LATE_TIMES):
        pulse.beat(float(number), LATE_SECONDS, LATE_SECONDS + 0.1 + number)

    assert pulse.late_commits.told(2.0)
    assert not pulse.late_turns.told(2.0)
    assert pulse.loop_lag_seconds == LATE_SECONDS

    for number in range(LATE_TIMES):
        pulse.beat(float(number), LATE_SECONDS + 0.1, LATE_SECONDS)

    assert pulse.late_turns.told(2.0)


def test_a_sync_is_counted_once() -> None:
    pulse = Pulse()
    for now in range(LATE_TIMES):
        pulse.beat(float(now), 0.0, 2.0)

    assert not pulse.late_commits.told(2.0)


def test_drops_are_noticed_when_their_number_changes() -> None:
    pulse = Pulse()

    assert pulse.look_for_drops(0, 1.0) is None
    assert pulse.look_for_drops(2, 5.0) == 0.0
    assert pulse.look_for_drops(2, 9.0) == 4.0
    assert pulse.look_for_drops(3, 10.0) == 0.0
