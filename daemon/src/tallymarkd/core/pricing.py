"""What a usage costs, by the price table of genai-prices.

The library is imported when first needed: it takes a third of a second and
20 MB. It is asked for its table only; the sum over the table's prices is done
here, some hundred times faster than the library does it and to the same
figure. Nothing here touches the network.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, NamedTuple

from tallymark.events import RunEnd, Usage
from tallymarkd.core.entry import Cost

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

    Price = Decimal | TieredPrices | None

MODELS_KEPT_MAX = 4096
"""Most model names whose entry in the table is remembered."""

NAME_CHARS_MAX = 256
"""A longer name is no model's."""

NANOS_PER_MTOK_USD = 1000
"""One dollar for a million tokens is 1000 nano-dollars for one."""

NANOS_PER_REQUEST = 1_000_000
"""One dollar for a thousand requests is a million nano-dollars for one."""

_HOSTS = {
    "ai21": None,
    "amazon": "aws",
    "anthropic": "anthropic",
    "aws": "aws",
    "azure": "azure",
    "azure_ai": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "cerebras": "cerebras",
    "cohere": "cohere",
    "converse": "aws",
    "deepseek": "deepseek",
    "fireworks": "fireworks",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "google": "google",
    "google-vertex": "google",
    "groq": "groq",
    "invoke": "aws",
    "meta": None,
    "mistral": "mistral",
    "mistralai": "mistral",
    "models": None,
    "moonshot": "moonshotai",
    "moonshotai": "moonshotai",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "publishers": None,
    "together": "together",
    "together_ai": "together",
    "vertex": "google",
    "vertex_ai": "google",
    "x-ai": "x-ai",
    "xai": "x-ai",
}
"""First parts of names like ``bedrock/…``, and whose prices hold there. None: nobody's."""

_REGION_AND_MAKER = re.compile(
    r"^(?:(?:us|eu|ap|apac|au|jp|ca|sa|us-gov|global)\.)?"
    r"(?:ai21|amazon|anthropic|cohere|deepseek|meta|mistral|openai|qwen)\."
)
_BEDROCK_REVISION = re.compile(r"-v\d+(?::\d+)?(?::\d+k)?$")
_DATE = re.compile(r"[-@](?:20\d{6}|20\d\d-\d\d-\d\d)$")

log = logging.getLogger("tallymarkd")


class Pricer:
    """Prices usages. Never raises on account of what it is asked; safe to share."""

    def __init__(self, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._table: _Table | None = None
        self._failed = False
        self._known: dict[str, ModelInfo | None] = {}

    @property
    def loaded(self) -> bool:
        """Whether the price table is there, so that pricing takes microseconds."""
        return self._table is not None

    def load(self) -> bool:
        """Load the price table if it is not loaded; False if that cannot be done.

        Takes about half a second the first time; may be called from any thread.
        """
        with self._lock:
            if self._table is None and not self._failed:
                try:
                    self._table = _Table()
                except Exception as error:  # noqa: BLE001  # whatever is wrong with the library
                    self._failed = True
                    log.warning("cannot load genai-prices: %s; usages stay unpriced", error)
        return self._table is not None

    def price(
        self,
        model: str,
        *,
        input_tokens: int,
        output_tokens: int,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        at: datetime | None = None,
        one_response: bool = True,
    ) -> Cost | None:
        """The cost at the prices of the time ``at`` (default: now); None if unknown.

        ``input_tokens`` includes what was read from and written to a cache.
        Some models cost more for a long prompt; with ``one_response`` False
        the tokens are the sum of several, which says nothing of how long each
        was, and the price for the shorter prompt is taken.
        """
        if not model or not self.load() or self._table is None:
            return None
        try:
            info = self._info(model, self._table)
            if info is None:
                return None
            nanos = _nanos(
                self._table.rates(info.get_prices(at or self._clock())),
                (input_tokens, output_tokens, cache_read_tokens, cache_write_tokens),
                input_tokens if one_response else 0,
            )
        except Exception:  # a table entry that the library itself cannot use
            log.exception("cannot price %r", model)
            return None
        return None if nanos is None else Cost(nanos, self._table.source)

    def price_event(self, event: Usage | RunEnd) -> Cost | None:
        """The cost of a usage, or of all a run's responses together; None if unknown.

        At the prices of the time for which the event counts; now, when it says none.
        """
        ended = event.ended_at if isinstance(event, RunEnd) else None
        return self.price(
            event.model_used,
            input_tokens=event.input_tokens,
            output_tokens=event.output_tokens,
            cache_read_tokens=event.cache_read_tokens,
            cache_write_tokens=event.cache_write_tokens,
            at=ended or event.at,
            one_response=isinstance(event, Usage),
        )

    def _info(self, model: str, table: _Table) -> ModelInfo | None:
        known = self._known
        if model in known:
            return known[model]
        found = table.find(model)
        if len(known) >= MODELS_KEPT_MAX:
            known.clear()
        known[model] = found
        return found


class _Table:
    """The library's table. Its own look-up remembers every name for ever, so ours is used."""

    def __init__(self) -> None:
        import genai_prices
        from genai_prices.data import providers

        self.source = f"genai-prices@{genai_prices.__version__}"
        self._providers: list[Provider] = providers
        self._rates: dict[int, _Rates] = {}
        self._by_id = {provider.id: provider for provider in providers}

    def find(self, model: str) -> ModelInfo | None:
        name = model.strip().lower()
        if not name or len(name) > NAME_CHARS_MAX:
            return None
        for provider_id, ref in _readings(name):
            provider = self._by_id.get(provider_id) if provider_id else self._maker(ref)
            found = provider and provider.find_model(ref, all_providers=self._providers)
            if found:
                return found
        return None

    def rates(self, prices: ModelPrice) -> _Rates:
        """The prices that matter here, remembered for each entry of the table."""
        known = self._rates.get(id(prices))
        if known is None or known.prices is not prices:
            known = self._rates[id(prices)] = _Rates(
                prices,
                prices.input_mtok,
                prices.output_mtok,
                _or(prices.cache_read_mtok, prices.input_mtok),
                _or(prices.cache_write_mtok, prices.input_mtok),
                prices.requests_kcount,
            )
        return known

    def _maker(self, ref: str) -> Provider | None:
        for provider in self._providers:
            if provider.model_match is not None and provider.model_match.is_match(ref):
                return provider
        return None


def _readings(name: str) -> Iterator[tuple[str | None, str]]:
    """What a name can mean, the nearest first: whose prices, and the model's name there.

    ``bedrock/us.anthropic.claude-x-20250929-v1:0`` is that model at Amazon's
    prices; where Amazon's table has none, it is ``claude-x`` at its maker's.
    """
    ref = name
    while "/" in ref:
        head, rest = ref.split("/", 1)
        if head not in _HOSTS:
            break
        host = _HOSTS[head]
        if host is not None:
            yield host, rest
            yield host, _DATE.sub("", rest)
        ref = rest
    yield None, ref
    bare = ref
    if _REGION_AND_MAKER.match(ref):
        yield "aws", ref
        bare = _BEDROCK_REVISION.sub("", _REGION_AND_MAKER.sub("", ref))
    yield None, bare
    yield None, bare.replace("@", "-")
    yield None, _DATE.sub("", bare)


def _or(price: Price, other: Price) -> Price:
    return other if price is None else price


class _Rates(NamedTuple):
    """Dollars for a million tokens, and for a thousand requests.

    What is read from or written to a cache and has no price of its own costs
    what other input costs.
    """

    prices: ModelPrice
    input: Price
    output: Price
    cache_read: Price
    cache_write: Price
    requests: Price


def _nanos(rates: _Rates, counts: tuple[int, int, int, int], prompt_tokens: int) -> int | None:
    """The sum in nano-dollars; None if the table lacks a price that is needed."""
    given, made, cache_read, cache_write = counts
    fresh = given - cache_read - cache_write
    if fresh < 0 or (rates.input is None and (given or rates.output is None)):
        return None
    if made and rates.output is None:
        return None
    total = Decimal(0)
    for count, price in (
        (fresh, rates.input),
        (cache_read, rates.cache_read),
        (cache_write, rates.cache_write),
        (made, rates.output),
    ):
        if count and price is not None:
            total += count * _tier(price, prompt_tokens)
    total *= NANOS_PER_MTOK_USD
    if rates.requests is not None:
        total += _tier(rates.requests, prompt_tokens) * NANOS_PER_REQUEST
    return int(total.to_integral_value(ROUND_HALF_EVEN))


def _tier(price: Decimal | TieredPrices, prompt_tokens: int) -> Decimal:
    """The price that holds for a prompt of this length: all tokens pay the tier reached."""
    if isinstance(price, Decimal):
        return price
    found = price.base
    for tier in price.tiers:
        if prompt_tokens > tier.start:
            found = tier.price
    return found
