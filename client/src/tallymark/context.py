"""What surrounds a run, and how a function becomes a block of its own at each call."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
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


Make = Callable[[], AbstractContextManager[object]]


def decorate(make: Make, function: Callable[P, R]) -> Callable[P, R]:
    """A function of any kind, each call of which is in a block of its own: to its return,
    to the end of what is awaited, or from a generator's first step to its last."""
    # Heavy to import, and needed by decorators alone.
    import inspect

    kinds: list[tuple[Callable[[object], bool], Callable[[Make, Any], Any]]] = [
        (inspect.iscoroutinefunction, _awaited),
        (inspect.isasyncgenfunction, _async_generated),
        (inspect.isgeneratorfunction, _generated),
    ]
    called: object = function
    while isinstance(called, functools.partial):
        called = called.func
    # Of an object that can be called, its method tells.
    method = getattr(type(called), "__call__", None)  # noqa: B004 - it is looked at
    for is_kind, within in kinds:
        if is_kind(called) or is_kind(method):
            return cast(Callable[P, R], functools.wraps(function)(within(make, function)))

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with make():
            return function(*args, **kwargs)

    return run


def _awaited(make: Make, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> Any:
        with make():
            return await function(*args, **kwargs)

    return run


def _generated(
    make: Make, function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Generator[Any, Any, Any]]:
    def run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with make():
            return (yield from function(*args, **kwargs))

    return run


def _async_generated(
    make: Make, function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    async def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with make():
            inner = function(*args, **kwargs)
            step = inner.__anext__()
            while True:
                try:
                    value = await step
                except StopAsyncIteration:
                    return
                try:
                    sent = yield value
                except GeneratorExit:
                    await inner.aclose()
                    raise
                # What was thrown at this generator is meant for the one within.
                except BaseException as error:  # noqa: BLE001
                    step = inner.athrow(error)
                else:
                    step = inner.asend(sent)

    return run
