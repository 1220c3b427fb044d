"""Token counts out of the responses of model libraries, as dicts and as objects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from tallymark.runs import Run
from tallymark.usage import TokenCounts, read_usage
from tests.unit.test_client_runs import Fake

ANTHROPIC = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 2000,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 50,
    "service_tier": "standard",
}
ANTHROPIC_COUNTS = TokenCounts(
    input_tokens=2310, output_tokens=50, cache_read_tokens=2000, cache_write_tokens=300
)
OPENAI_CHAT = {
    "prompt_tokens": 2310,
    "completion_tokens": 50,
    "total_tokens": 2360,
    "prompt_tokens_details": {"cached_tokens": 2000, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 40, "audio_tokens": 0},
}
OPENAI_COUNTS = TokenCounts(input_tokens=2310, output_tokens=50, cache_read_tokens=2000)
OPENAI_RESPONSES = {
    "input_tokens": 2310,
    "input_tokens_details": {"cached_tokens": 2000},
    "output_tokens": 50,
    "output_tokens_details": {"reasoning_tokens": 40},
    "total_tokens": 2360,
}
LITELLM = {
    "prompt_tokens": 2310,
    "completion_tokens": 50,
    "total_tokens": 2360,
    "prompt_tokens_details": {"cached_tokens": 2000, "cache_creation_tokens": 300},
    "completion_tokens_details": None,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 2000,
}
LITELLM_OLD = LITELLM | {"prompt_tokens": 2010, "total_tokens": 2060}

SHAPES = [
    pytest.param(ANTHROPIC, ANTHROPIC_COUNTS, id="anthropic"),
    pytest.param(OPENAI_CHAT, OPENAI_COUNTS, id="openai-chat"),
    pytest.param(OPENAI_RESPONSES, OPENAI_COUNTS, id="openai-responses"),
    pytest.param(LITELLM, ANTHROPIC_COUNTS, id="litellm"),
    pytest.param(LITELLM_OLD, ANTHROPIC_COUNTS, id="litellm-without-cache-writes"),
    pytest.param(
        {"input_tokens": 7, "output_tokens": 3},
        TokenCounts(input_tokens=7, output_tokens=3),
        id="neither-cache-nor-details",
    ),
    pytest.param(
        ANTHROPIC | {"cache_creation_input_tokens": None, "cache_read_input_tokens": None},
        TokenCounts(input_tokens=10, output_tokens=50),
        id="anthropic-cache-none",
    ),
    pytest.param(
        OPENAI_RESPONSES | {"input_tokens_details": None},
        TokenCounts(input_tokens=2310, output_tokens=50),
        id="openai-responses-details-none",
    ),
    pytest.param(
        OPENAI_RESPONSES
        | {"input_tokens_details": {"cached_tokens": 2000, "cache_write_tokens": 300}},
        ANTHROPIC_COUNTS,
        id="openai-responses-with-cache-writes",
    ),
    pytest.param(
        OPENAI_CHAT | {"prompt_tokens_details": {"cached_tokens": 2000, "cache_write_tokens": 300}},
        ANTHROPIC_COUNTS,
        id="openai-chat-with-cache-writes",
    ),
    pytest.param(
        {name: value for name, value in LITELLM.items() if not name.startswith("cache_")},
        ANTHROPIC_COUNTS,
        id="litellm-cache-in-details-only",
    ),
    pytest.param(
        LITELLM | {"prompt_tokens_details": None}, ANTHROPIC_COUNTS, id="litellm-without-details"
    ),
    pytest.param(
        ANTHROPIC | {"output_tokens_details": {"thinking_tokens": 40}},
        ANTHROPIC_COUNTS,
        id="anthropic-with-thinking",
    ),
    pytest.param(
        ANTHROPIC | {"input_tokens_details": None},
        ANTHROPIC_COUNTS,
        id="anthropic-with-openais-names",
    ),
    pytest.param(
        OPENAI_RESPONSES
        | {"prompt_tokens": None, "completion_tokens": None, "prompt_tokens_details": None},
        OPENAI_COUNTS,
        id="openai-responses-with-those-of-chat",
    ),
    pytest.param(
        {"prompt_tokens": 9, "total_tokens": 9}, TokenCounts(input_tokens=9), id="embedding"
    ),
]


def as_object(value: Any) -> Any:
    """As the libraries' classes have it: attributes instead of keys."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: as_object(inner) for name, inner in value.items()})
    return value


@pytest.mark.parametrize(("usage", "expected"), SHAPES)
def test_a_usage_as_dict_and_object(usage: dict[str, Any], expected: TokenCounts) -> None:
    assert read_usage(usage) == expected
    assert read_usage(as_object(usage)) == expected


@pytest.mark.parametrize(("usage", "expected"), SHAPES)
def test_a_whole_response_names_its_model(usage: dict[str, Any], expected: TokenCounts) -> None:
    response = {"id": "x", "model": "some-model", "usage": usage}
    for given in (response, as_object(response), SimpleNamespace(model="some-model", usage=usage)):
        found = read_usage(given)
        assert found is not None
        assert found.model == "some-model"
        assert (found.input_tokens, found.output_tokens) == (
            expected.input_tokens,
            expected.output_tokens,
        )


@pytest.mark.parametrize(("usage", "expected"), SHAPES)
def test_a_run_takes_each_shape(usage: dict[str, Any], expected: TokenCounts) -> None:
    fake = Fake()
    with Run(fake, "coding") as run:
        run.add_usage(SimpleNamespace(model="some-model", usage=as_object(usage)))
        run.add_usage(usage)
    end = fake.end
    assert (end.input_tokens, end.output_tokens, end.cache_read_tokens, end.cache_write_tokens) == (
        2 * expected.input_tokens,
        2 * expected.output_tokens,
        2 * expected.cache_read_tokens,
        2 * expected.cache_write_tokens,
    )
    assert end.model_used == "some-model"
    assert fake.ignored == []


class Hostile:
    @property
    def usage(self) -> object:
        raise RuntimeError("do not look")


@pytest.mark.parametrize(
    "given",
    [
        None,
        "usage",
        5,
        [],
        {},
        {"usage": None},
        {"input_tokens": 5},
        {"output_tokens": 5},
        {"input_tokens": "5", "output_tokens": 5},
        {"input_tokens": -5, "output_tokens": 5},
        {"input_tokens": True, "output_tokens": 5},
        {"input_tokens": 5.0, "output_tokens": 5},
        {"input_tokens": 10**13, "output_tokens": 5},
        {"input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": "many"},
        OPENAI_CHAT | {"prompt_tokens_details": {"cached_tokens": 5000}},
        OPENAI_CHAT | {"prompt_tokens": None},
        OPENAI_CHAT | {"prompt_tokens_details": {"cache_write_tokens": 5000}},
        OPENAI_CHAT | {"prompt_tokens_details": {"cache_write_tokens": -1}},
        OPENAI_RESPONSES | {"input_tokens_details": {"cache_write_tokens": "x"}},
        OPENAI_RESPONSES | {"input_tokens_details": {"cached_tokens": "x"}},
        MagicMock(),
        Hostile(),
    ],
)
def test_what_is_not_understood_is_none_and_never_raises(given: Any) -> None:
    assert read_usage(given) is None


def test_a_model_that_is_no_text_is_left_out() -> None:
    found = read_usage({"model": 5, "usage": ANTHROPIC})
    assert found == ANTHROPIC_COUNTS
