"""Decorated functions of every kind: the block lasts as long as the call, and sees its end."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from types import TracebackType
from typing import Any

import pytest

from tallymark.context import decorate


class Blocks:
    """Makes blocks that tell how they ended; ``open`` is how many have not."""

    def __init__(self) -> None:
        self.open = 0
        self.ends: list[type[BaseException] | None] = []

    def __call__(self) -> Blocks:
        return self

    def __enter__(self) -> None:
        self.open += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.open -= 1
        self.ends.append(kind)


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


def talk(blocks: Blocks, fail: bool = False) -> Generator[int, str, str]:
    """Tell how many blocks are open, and what is said."""
    assert blocks.open == 1
    try:
        said = yield 1
    except KeyError:
        said = yield 2
    if fail:
        raise ValueError(said)
    return said


async def talk_async(blocks: Blocks, fail: bool = False) -> AsyncGenerator[int | str, str]:
    assert blocks.open == 1
    try:
        said = yield 1
    except KeyError:
        said = yield 2
    await asyncio.sleep(0)
    if fail:
        raise ValueError(said)
    yield said


# Generators.


def test_a_generators_block_lasts_from_its_first_step_to_its_last(blocks: Blocks) -> None:
    decorated = decorate(blocks, talk)
    assert inspect.isgeneratorfunction(decorated)
    talking = decorated(blocks)
    assert (blocks.open, next(talking), blocks.open) == (0, 1, 1)
    assert talking.throw(KeyError()) == 2
    with pytest.raises(StopIteration) as ended:
        talking.send("well")
    assert ended.value.value == "well"
    assert (blocks.open, blocks.ends) == (0, [None])


def test_a_generators_exception_is_seen(blocks: Blocks) -> None:
    talking = decorate(blocks, talk)(blocks, fail=True)
    next(talking)
    with pytest.raises(ValueError, match="no"):
        talking.send("no")
    assert blocks.ends == [ValueError]


def test_a_generator_that_is_closed(blocks: Blocks) -> None:
    talking = decorate(blocks, talk)(blocks)
    next(talking)
    talking.close()
    assert blocks.ends == [GeneratorExit]


def test_an_async_generators_block_lasts_from_its_first_step_to_its_last(blocks: Blocks) -> None:
    decorated = decorate(blocks, talk_async)
    assert inspect.isasyncgenfunction(decorated)

    async def main() -> None:
        talking = decorated(blocks)
        assert (blocks.open, await anext(talking), blocks.open) == (0, 1, 1)
        assert await talking.athrow(KeyError()) == 2
        assert await talking.asend("well") == "well"
        with pytest.raises(StopAsyncIteration):
            await anext(talking)
        assert (blocks.open, blocks.ends) == (0, [None])
        assert [each async for each in decorated(blocks)] == [1, None]

    asyncio.run(main())


def test_an_async_generators_exception_is_seen(blocks: Blocks) -> None:
    async def main() -> None:
        talking = decorate(blocks, talk_async)(blocks, fail=True)
        await anext(talking)
        with pytest.raises(ValueError, match="no"):
            await talking.asend("no")

    asyncio.run(main())
    assert blocks.ends == [ValueError]


def test_an_async_generator_that_is_closed_or_forgotten(blocks: Blocks) -> None:
    async def main() -> None:
        talking = decorate(blocks, talk_async)(blocks)
        await anext(talking)
        await talking.aclose()
        assert blocks.ends == [GeneratorExit]
        async for _ in decorate(blocks, talk_async)(blocks):
            break
        # The loop closes what nobody holds any more.
        for _ in range(100):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert (blocks.open, blocks.ends) == (0, [GeneratorExit] * 2)


# Objects.


class Agent:
    """Objects that can be called, in every way."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks


class Plain(Agent):
    def __call__(self, fail: bool) -> int:
        if fail:
            raise ValueError("no")
        return self.blocks.open


class Awaited(Agent):
    async def __call__(self, fail: bool) -> int:
        await asyncio.sleep(0)
        if fail:
            raise ValueError("no")
        return self.blocks.open


class Generated(Agent):
    def __call__(self, fail: bool) -> Generator[int, None, None]:
        yield 0
        if fail:
            raise ValueError("no")
        yield self.blocks.open


async def finish(result: Any) -> Any:
    """The last of what a call gives."""
    if inspect.isawaitable(result):
        return await result
    return result if isinstance(result, int) else list(result)[-1]


@pytest.mark.parametrize("kind", [Plain, Awaited, Generated])
@pytest.mark.parametrize("wrapped", [lambda function: function, functools.partial])
def test_an_object_that_can_be_called(
    blocks: Blocks, kind: Callable[[Blocks], Any], wrapped: Callable[[Any], Any]
) -> None:
    async def main() -> None:
        decorated = decorate(blocks, wrapped(kind(blocks)))
        assert await finish(decorated(False)) == 1
        with pytest.raises(ValueError, match="no"):
            await finish(decorated(True))

    asyncio.run(main())
    assert (blocks.open, blocks.ends) == (0, [None, ValueError])


def test_a_class_is_a_function_like_any_other(blocks: Blocks) -> None:
    assert isinstance(decorate(blocks, Awaited)(blocks), Awaited)
    assert blocks.ends == [None]
