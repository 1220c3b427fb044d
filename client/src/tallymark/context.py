"""What surrounds a run, and how a function becomes a block of its own at each call."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


class OpenSession(NamedTuple):
    """A session that is open in a context: whose, which, and within what it began."""

    recording: object
    session_id: str
    run: object
    outer: OpenSession | None


current_session: ContextVar[OpenSession | None] = ContextVar("tallymark_session", default=None)
"""The innermost one."""

T = TypeVar("T")


def restore(variable: ContextVar[T], token: Token[T], before: T) -> None:
    """What the variable was before, also in another context than it was set in, as that
    of a generator's ``finally`` may be."""
    try:
        variable.reset(token)
    except ValueError:
        variable.set(before)


def is_clean_exit(error: BaseException) -> bool:
    """Whether a block that ends so has not failed: a generator closed, an exit with 0."""
    return isinstance(error, GeneratorExit) or (
        isinstance(error, SystemExit) and error.code in (None, 0)
    )


def decorate(
    make: Callable[[], AbstractContextManager[object]], function: Callable[P, R]
) -> Callable[P, R]:
    """A function, or coroutine function, each call of which is in a block of its own."""
    # Heavy to import, and needed by decorators alone.
    import inspect

    if inspect.iscoroutinefunction(function):
        awaited = cast(Callable[P, Awaitable[Any]], function)

        @functools.wraps(function)
        async def run_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            with make():
                return await awaited(*args, **kwargs)

        return cast(Callable[P, R], run_async)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with make():
            return function(*args, **kwargs)

    return run
