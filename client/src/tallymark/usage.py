"""Token counts out of the responses of model libraries.

Every provider counts differently. tallymark's ``input_tokens`` includes what
was read from and written to a cache, and ``output_tokens`` includes
reasoning; the shapes known here are converted to that:

=================  =======================  ====================================
shape              told by                  input counts as given
=================  =======================  ====================================
Anthropic          ``cache_…_input_tokens`` without cache reads and writes
OpenAI responses   ``input_tokens`` and     with cached tokens
                   ``input_tokens_details``
OpenAI chat        ``prompt_tokens``        with cached tokens
LiteLLM            ``prompt_tokens`` and    with cache reads; cache writes since 2025
                   ``cache_…_input_tokens``
=================  =======================  ====================================

All four count reasoning in their output. Dicts and objects are read alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tallymark.events import TOKENS_MAX

_ABSENT = object()


class TokenCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one model response, and the model where the response names it."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    model: str = ""


def read_usage(response_or_usage: Any) -> TokenCounts | None:
    """Counts of a response, or of its ``usage``; None for a shape not known here.

    Never raises, whatever the object does.
    """
    try:
        return _read(response_or_usage)
    # A foreign object's attributes are foreign code: it may raise anything.
    except Exception:  # noqa: BLE001
        return None


def _read(given: Any) -> TokenCounts | None:
    inner = _get(given, "usage")
    usage = given if _is_nothing(inner) else inner
    model = _get(given, "model")
    # A type for several providers may have the others' names too, with nothing in them.
    read_counts = _read_plain if _is_nothing(_get(usage, "prompt_tokens")) else _read_chat
    counts = read_counts(usage)
    if counts is None or not isinstance(model, str):
        return counts
    return msgspec.structs.replace(counts, model=model)


def _read_plain(usage: Any) -> TokenCounts | None:
    """Anthropic, and OpenAI's responses: told apart by where the cache stands."""
    given, output = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    if given is None or output is None:
        return None
    read, write = _anthropic_cache(usage)
    if read is None or write is None:
        return None
    details = _get(usage, "input_tokens_details")
    if _is_nothing(details):
        return _counts(given + read + write, output, read, write)
    return _with_details(given, output, details, 0, 0)


def _read_chat(usage: Any) -> TokenCounts | None:
    """OpenAI's chat completions, and LiteLLM, which keeps Anthropic's names beside them."""
    given = _count(usage, "prompt_tokens")
    # Absent for embeddings, which have no output.
    output = _count(usage, "completion_tokens", default=0)
    read, write = _anthropic_cache(usage)
    if given is None or output is None or read is None or write is None:
        return None
    # Older versions of LiteLLM leave cache writes out of prompt_tokens.
    total = given if read + write <= given else given + write
    return _with_details(total, output, _get(usage, "prompt_tokens_details"), read, write)


def _with_details(
    total: int, output: int, details: Any, read: int, write: int
) -> TokenCounts | None:
    """Counts whose cache may be told in the details of the input, and elsewhere as well."""
    cached = _count(details, "cached_tokens", default=0)
    written = [
        _count(details, name, default=0) for name in ("cache_write_tokens", "cache_creation_tokens")
    ]
    if cached is None or None in written:
        return None
    return _counts(total, output, max(read, cached), max(write, *filter(None, written), 0))


def _anthropic_cache(usage: Any) -> tuple[int | None, int | None]:
    return (
        _count(usage, "cache_read_input_tokens", default=0),
        _count(usage, "cache_creation_input_tokens", default=0),
    )


def _counts(total: int, output: int, read: int, write: int) -> TokenCounts | None:
    if read + write > total:
        return None
    return TokenCounts(
        input_tokens=total,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=write,
    )


def _get(holder: Any, name: str) -> Any:
    if isinstance(holder, Mapping):
        return holder.get(name, _ABSENT)
    return getattr(holder, name, _ABSENT)


def _is_nothing(value: object) -> bool:
    return value is _ABSENT or value is None


def _count(holder: Any, name: str, default: int | None = None) -> int | None:
    """A count; ``default`` where it is absent or None; None where it is no count."""
    value = _get(holder, name)
    if _is_nothing(value):
        return default
    return value if is_count(value) else None


def is_count(value: object) -> bool:
    """Whether a value can be a number of tokens."""
    if type(value) is not int and (not isinstance(value, int) or isinstance(value, bool)):
        return False
    return 0 <= value <= TOKENS_MAX
