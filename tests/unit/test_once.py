"""Work that is done once, whoever comes first."""

from __future__ import annotations

import threading

import pytest

from tallymark.once import Once


class Counted(Once):
    def __init__(self) -> None:
        super().__init__()
        self.done = 0

    def _work(self) -> None:
        self.done += 1


def test_of_many_that_come_one_does_it() -> None:
    work = Counted()
    threads = [threading.Thread(target=work.run) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert work.ended.wait(60)
    for thread in threads:
        thread.join()
    assert work.done == 1
    assert not work.claim()


def test_who_claims_it_keeps_it_from_being_done() -> None:
    work = Counted()
    assert work.claim()
    work.run()
    assert work.done == 0
    assert not work.ended.is_set()


def test_a_fault_is_an_end() -> None:
    class Faulty(Once):
        def _work(self) -> None:
            raise KeyboardInterrupt

    work = Faulty()
    with pytest.raises(KeyboardInterrupt):
        work.run()
    assert work.ended.is_set()
