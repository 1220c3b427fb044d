from __future__ import annotations

import re

import pytest

from tallymarkd.health.troubles import TROUBLES, reason


@pytest.mark.parametrize("code", TROUBLES)
def test_every_trouble_has_a_code_for_programs_and_a_remedy_for_people(code: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+|overloaded", code)
    assert re.match(r"[a-z]", TROUBLES[code].remedy)
    assert not TROUBLES[code].remedy.endswith(".")
    assert len(TROUBLES[code].remedy) > 20


def test_a_reason_is_of_the_table() -> None:
    found = reason("disk_low", "only 3 MiB are free")

    assert (found.code, found.message) == ("disk_low", "only 3 MiB are free")
    assert found.remedy == TROUBLES["disk_low"].remedy
    with pytest.raises(KeyError):
        reason("no_such_code", "")
