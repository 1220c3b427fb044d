"""Exceptions: they travel between processes, as a pool of them needs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from tallymark import errors
from tallymark.errors import FlushTimeout, RefusedError, TallymarkError

KINDS: list[type[TallymarkError]] = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TallymarkError)
]


def make(kind: type[TallymarkError]) -> TallymarkError:
    if kind is RefusedError:
        return RefusedError("fenced", "cannot go on")
    if kind is FlushTimeout:
        return FlushTimeout("cannot flush", pending_events=3)
    return kind("cannot do it")


def pickled(error: TallymarkError) -> object:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("remade", [pickled, copy.copy])
def test_it_is_the_same_in_another_process(
    kind: type[TallymarkError], remade: Callable[[TallymarkError], object]
) -> None:
    error = make(kind)
    error.add_note("seen in a worker")
    found = remade(error)
    assert type(found) is kind
    assert (str(found), vars(found)) == (str(error), vars(error))
