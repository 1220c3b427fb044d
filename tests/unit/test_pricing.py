from __future__ import annotations

import re
import subprocess
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers

from tallymark.events import RunEnd, Usage
from tallymarkd.core import pricing
from tallymarkd.core.entry import Cost
from tallymarkd.core.pricing import Pricer

AT = datetime(2025, 11, 1, tzinfo=UTC)
SOURCE = f"genai-prices@{genai_prices.__version__}"
SONNET = "claude-sonnet-4-5-20250929"


@pytest.fixture(scope="module")
def pricer() -> Pricer:
    return Pricer(clock=lambda: AT)


def price(pricer: Pricer, model: str, **tokens: Any) -> Cost | None:
    given: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 100, "at": AT}
    return pricer.price(model, **(given | tokens))


def dollars(cost: Cost | None) -> Decimal:
    assert cost is not None
    return Decimal(cost.nanos) / 10**9


def table(provider_id: str, model_id: str) -> Any:
    """The prices as the library's own table has them, dollars for a million tokens."""
    provider = next(each for each in providers if each.id == provider_id)
    return next(each for each in provider.models if each.id == model_id).get_prices(AT)


# Figures.


def test_a_price_worked_out_by_hand(pricer: Pricer) -> None:
    """Claude Sonnet 4.5: $3 in, $15 out, $0.30 read from and $3.75 written to the cache."""
    prices = table("anthropic", "claude-sonnet-4-5")
    assert prices.input_mtok.base == Decimal(3)
    assert prices.output_mtok.base == Decimal(15)
    assert prices.cache_read_mtok.base == Decimal("0.3")
    assert prices.cache_write_mtok.base == Decimal("3.75")

    found = price(
        pricer, SONNET, input_tokens=10_000, output_tokens=500,
        cache_read_tokens=6_000, cache_write_tokens=1_000,
    )  # fmt: skip

    # 3,000 * 3 + 6,000 * 0.3 + 1,000 * 3.75 + 500 * 15 = 22,050 millionths of a dollar
    assert found == Cost(22_050_000, SOURCE)


def test_a_model_without_a_price_for_the_cache(pricer: Pricer) -> None:
    """GPT-4o has a price for reading the cache and none for writing it: that is input."""
    prices = table("openai", "gpt-4o")
    assert (prices.input_mtok, prices.output_mtok) == (Decimal("2.5"), Decimal(10))
    assert (prices.cache_read_mtok, prices.cache_write_mtok) == (Decimal("1.25"), None)

    found = price(pricer, "gpt-4o", cache_read_tokens=200, cache_write_tokens=100)

    # 800 * 2.5 + 200 * 1.25 + 100 * 10 = 3,250 millionths of a dollar
    assert found == Cost(3_250_000, SOURCE)


def test_a_long_prompt_costs_more_and_a_sum_of_prompts_does_not(pricer: Pricer) -> None:
    """Beyond 200,000 tokens Claude Sonnet 4.5 costs $6 in and $22.50 out."""
    tokens = {"input_tokens": 300_000, "output_tokens": 1000}

    assert dollars(price(pricer, SONNET, **tokens)) == Decimal("1.8225")
    assert dollars(price(pricer, SONNET, **tokens, one_response=False)) == Decimal("0.915")
    limit = {"input_tokens": 200_000, "output_tokens": 0}
    assert dollars(price(pricer, SONNET, **limit)) == Decimal("0.6")


@pytest.mark.parametrize(("tokens", "nanos"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)])
def test_half_a_nano_dollar_is_rounded_to_even(tokens: int, nanos: int) -> None:
    cheap: Any = Decimal("0.0005")
    rates = pricing._Rates(cheap, cheap, cheap, cheap, cheap, None)

    assert pricing._nanos(rates, (tokens, 0, 0, 0), tokens) == nanos


def test_a_price_for_each_request_is_added() -> None:
    free: Any = Decimal(0)
    rates = pricing._Rates(free, free, free, free, free, Decimal(5))

    assert pricing._nanos(rates, (10, 10, 0, 0), 10) == 5_000_000


def test_no_tokens_cost_nothing(pricer: Pricer) -> None:
    assert price(pricer, SONNET, input_tokens=0, output_tokens=0) == Cost(0, SOURCE)


def test_the_whole_table_gives_the_librarys_own_figures(pricer: Pricer) -> None:
    assert pricer.load()
    tried = 0
    counts = {"input_tokens": 300_000, "output_tokens": 700}
    caches = {"cache_read_tokens": 20_000, "cache_write_tokens": 3_000}
    for provider in providers:
        for model in provider.models[::4]:
            rates = pricer._table.rates(model.get_prices(AT)) if pricer._table else None
            assert rates is not None
            nanos = pricing._nanos(rates, (300_000, 700, 20_000, 3_000), 300_000)
            if nanos is None:
                continue
            usage = genai_prices.Usage(**counts, **caches)
            total = model.calc_price(usage, provider, genai_request_timestamp=AT).total_price
            assert abs(total * 10**9 - nanos) <= Decimal("0.5"), f"{provider.id} {model.id}"
            tried += 1
    assert tried > 200


def test_prices_change_with_time(pricer: Pricer) -> None:
    """A model whose price has changed costs what it cost then."""
    then, later = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    model = next(
        model
        for provider in providers
        if provider.model_match is not None
        for model in provider.models
        if provider.model_match.is_match(model.id)
        and provider.find_model(model.id) is model
        and isinstance(model.get_prices(then).input_mtok, Decimal)
        and isinstance(model.get_prices(later).input_mtok, Decimal)
        and model.get_prices(then).input_mtok != model.get_prices(later).input_mtok
    )

    for at in (then, later):
        found = price(pricer, model.id, input_tokens=1_000_000, output_tokens=0, at=at)
        assert dollars(found) == model.get_prices(at).input_mtok


@pytest.mark.parametrize("at", [None, datetime(2100, 1, 1, tzinfo=UTC)])
def test_a_run_is_priced_at_the_time_of_its_end(at: datetime | None) -> None:
    """Which is the time for which it counts, also when it was imported long after."""
    ended = datetime(2025, 5, 1, tzinfo=UTC)
    asked: list[datetime | None] = []

    class Asked(Pricer):
        def price(self, model: str, *, at: datetime | None = None, **rest: Any) -> Cost | None:
            asked.append(at)
            return super().price(model, at=at, **rest)

    pricer = Asked(clock=lambda: AT)
    run = RunEnd(agent_name="a", model_used="o3", input_tokens=1000, ended_at=ended, at=at)
    then = pricer.price_event(run)
    run = RunEnd(agent_name="a", model_used="o3", input_tokens=1000, at=ended)
    usage = Usage(agent_name="a", model_used="o3", input_tokens=1000, at=ended)

    assert then == pricer.price_event(run) == pricer.price_event(usage)
    assert asked == [ended] * 3


def test_without_a_time_it_is_now() -> None:
    times: list[datetime] = []

    def clock() -> datetime:
        times.append(AT)
        return AT

    pricer = Pricer(clock=clock)
    assert price(pricer, SONNET, at=None) == price(pricer, SONNET)
    assert times == [AT]


# Names.


@pytest.mark.parametrize(
    "name",
    [
        "claude-sonnet-4-5",
        SONNET,
        SONNET.upper(),
        f" {SONNET} ",
        f"{SONNET}[1m]",
        f"anthropic/{SONNET}",
        "openrouter/anthropic/claude-sonnet-4-5",
        "openrouter/anthropic/claude-sonnet-4.5",
        "vertex_ai/claude-sonnet-4-5@20250929",
        "vertex_ai/publishers/anthropic/models/claude-sonnet-4-5@20250929",
        "claude-sonnet-4-5@20250929",
        "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "bedrock/global.anthropic.claude-sonnet-4-5-20250929-v1:0",
    ],
)
def test_names_of_one_model(pricer: Pricer, name: str) -> None:
    assert price(pricer, name) == Cost(4_500_000, SOURCE)


@pytest.mark.parametrize(
    "name",
    [
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "anthropic.claude-sonnet-4-5-20250929-v1:0",
        "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0",
        "bedrock/converse/eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
    ],
)
def test_a_host_with_prices_of_its_own(pricer: Pricer, name: str) -> None:
    """Amazon takes a tenth more for staying within a region."""
    prices = table("aws", "regional.anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert (prices.input_mtok, prices.output_mtok) == (Decimal("3.3"), Decimal("16.5"))

    assert price(pricer, name) == Cost(4_950_000, SOURCE)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("openai/gpt-4o", "gpt-4o"),
        ("azure/gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-20240806", "gpt-4o"),
        ("openai/gpt-4o-2024-08-06", "gpt-4o"),
        ("gemini/gemini-2.5-pro", "gemini-2.5-pro"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("vertex_ai/gemini-2.5-pro", "gemini-2.5-pro"),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", "claude-opus-4-1"),
    ],
)
def test_prefixes_and_dates(pricer: Pricer, name: str, same: str) -> None:
    found = price(pricer, name)

    assert found is not None
    assert found == price(pricer, same)


def test_a_revision_that_a_hosts_table_does_not_know_is_its_makers_model() -> None:
    names = [ref for host, ref in pricing._readings("us.anthropic.claude-x-20990101-v9:0")]

    assert names[-3:] == ["claude-x-20990101", "claude-x-20990101", "claude-x"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "/",
        "nonsense",
        "claude-nonsense",
        "<synthetic>",
        "someone/gpt-4o",
        "anthropic/",
        "anthropic/nonsense",
        "gpt-4o" * 1000,
        "\0",
        "é" * 100,
        "openai/" * 30 + "x",
    ],
)
def test_an_unknown_model_is_unpriced(pricer: Pricer, name: str) -> None:
    assert price(pricer, name) is None


def test_what_the_table_has_no_price_for_is_unpriced(pricer: Pricer) -> None:
    """A model that makes vectors has no price for output."""
    name = "openai/text-embedding-3-small"
    assert price(pricer, name, output_tokens=0) is not None
    assert price(pricer, name, output_tokens=1) is None


def test_more_cached_than_there_was_is_unpriced(pricer: Pricer) -> None:
    assert price(pricer, SONNET, cache_read_tokens=900, cache_write_tokens=101) is None


# Behaviour.


def test_only_so_many_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "MODELS_KEPT_MAX", 3)
    pricer = Pricer()
    for number in range(10):
        assert price(pricer, f"nonsense-{number}") is None
        assert len(pricer._known) <= 3
    assert price(pricer, SONNET) == Cost(4_500_000, SOURCE)


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pricer = Pricer()
    price(pricer, SONNET)
    monkeypatch.setattr(pricing._Table, "find", lambda self, model: pytest.fail(model))

    assert price(pricer, SONNET) == Cost(4_500_000, SOURCE)


def test_a_broken_entry_is_unpriced_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pricer = Pricer()
    monkeypatch.setattr(pricing._Table, "find", lambda self, model: SimpleNamespace())

    assert price(pricer, SONNET) is None
    assert "cannot price 'claude-sonnet-4-5-20250929'" in caplog.text


def test_it_loads_in_another_thread() -> None:
    pricer = Pricer()
    assert not pricer.loaded
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(pricer.load())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert results == [True] * 4
    assert pricer.loaded


def test_without_the_library_everything_is_unpriced(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    pricer = Pricer()

    assert price(pricer, SONNET) is None
    assert price(pricer, SONNET) is None
    assert not pricer.loaded
    assert len(re.findall("cannot load genai-prices", caplog.text)) == 1


def test_the_library_is_imported_when_first_needed_and_opens_no_socket() -> None:
    program = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from tallymarkd.core.pricing import Pricer
pricer = Pricer()
assert "genai_prices" not in sys.modules
assert pricer.price("", input_tokens=1, output_tokens=1) is None
assert "genai_prices" not in sys.modules
assert pricer.price("gpt-4o", input_tokens=1, output_tokens=1) is not None
assert pricer.price("nonsense", input_tokens=1, output_tokens=1) is None
print("ok")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_an_event_costs_what_its_figures_cost(pricer: Pricer) -> None:
    """A run's tokens are those of many prompts: none of them need have been long."""
    figures: Any = {"input_tokens": 900_000, "output_tokens": 5, "cache_read_tokens": 7}
    model = "claude-sonnet-4-5"
    usage = Usage(model_used=model, cache_write_tokens=3, **figures)
    run = RunEnd(agent_name="a", model_used=model, cache_write_tokens=3, **figures)

    one = pricer.price(model, cache_write_tokens=3, **figures)
    many = pricer.price(model, cache_write_tokens=3, one_response=False, **figures)

    assert one is not None
    assert many is not None
    assert one.nanos > many.nanos
    assert pricer.price_event(usage) == one
    assert pricer.price_event(run) == many
    assert pricer.price_event(Usage(input_tokens=5)) is None
