from __future__ import annotations

from tallymark.events import EVENT_TYPES
from tallymarkd.cli import event_options


def test_every_field_of_every_event_has_an_option_of_its_own() -> None:
    names = event_options.field_names()
    options = [event_options.option_name(name) for name in names]
    assert len(set(options)) == len(options)
    for kind in EVENT_TYPES.values():
        assert set(kind.__struct_fields__) - {"project"} <= set(names)
    assert event_options.option_name("agent_name") == "--agent"
    assert event_options.option_name("cache_read_tokens") == "--cache-read-tokens"
    tables = (event_options.SHORT_NAMES, event_options.HELP, event_options.METAVARS)
    for name in {name for table in tables for name in table}:
        assert name in names
    assert set(event_options.HELP) == set(names)
