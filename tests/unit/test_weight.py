from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import msgspec
import pytest

from tallymark.protocol.messages import BATCH_EVENTS_MAX, Publish
from tallymarkd.core.weight import BATCH_BYTES, EVENT_BYTES, weigh
from tests.daemon_parts import Bench, array, run_end, usage


def test_what_a_batch_counts_for() -> None:
    events = array(usage(), usage())

    assert weigh(msgspec.Raw(events), 2) == len(events) + 2 * EVENT_BYTES + BATCH_BYTES


@pytest.mark.parametrize(
    ("event", "count", "batches"),
    [
        pytest.param({}, 1, 300, id="an empty map"),
        pytest.param({}, BATCH_EVENTS_MAX, 3, id="many empty maps"),
        pytest.param({"type": "usage"}, 1, 300, id="a tiny usage"),
        pytest.param({"type": "usage"}, BATCH_EVENTS_MAX, 3, id="many tiny usages"),
        pytest.param({"type": "usage", "input_tokens": -1}, 1000, 5, id="many faults"),
        pytest.param({"type": "z"}, 1000, 5, id="many of no known type"),
        pytest.param(usage(dedupe_key="anthropic:12345678"), 256, 10, id="usages"),
        pytest.param(run_end(error_message="x" * 200), 256, 10, id="runs"),
        pytest.param(run_end(error_message="x" * 4000), 100, 5, id="large runs"),
    ],
)
def test_what_is_kept_until_it_is_durable_is_at_most_four_times_that(
    event: dict[str, Any], count: int, batches: int
) -> None:
    raw = array(*[event] * count)
    with Bench(unacknowledged_total_bytes_max=1 << 40) as bench:
        client = bench.join()
        bench.log.may_sync.clear()
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for seq in range(1, batches + 1):
                own = msgspec.Raw(bytes(bytearray(raw)))  # as each frame has its own bytes
                message = Publish(seq=seq, count=count, events=own)
                bench.engine.publish(client.producer, client.link, message, 0)
            del own, message
            gc.collect()
            kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        bench.log.may_sync.set()
        bench.settle()

    assert kept <= 4 * batches * weigh(raw, count)
