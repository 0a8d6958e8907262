"""Exchanges: when a lease ends, what the outcome says, and that it is told once."""

from __future__ import annotations

import math
import random

import pytest

from epp.api import Outcome, Usage
from epp.feedback.access_log import Entry
from epp.feedback.registry import Exchanges
from tests.feedback.world import ANNOUNCED, FIRST, SECOND, World

# --- nothing announced: the stream tells all ----------------------------------------------------------------------------


def test_unannounced_exchange_finishes_with_its_stream(world: World) -> None:
    """Without an access log the stream's end ends the lease and tells what the stream saw."""
    exchange = world.route({":peer": "ipv4:10.9.9.9:5000"})
    assert (world.inflight, world.telemetry.started, len(world.exchanges)) == (1, 1, 1)
    world.clock.now += 2
    world.exchanges.answer_began(exchange, status=200, served=SECOND)
    assert world.pool.columns["inflight_tokens"][0] == 0
    world.clock.now += 3
    world.exchanges.stream_ended(exchange, complete=True, usage=Usage(5, 9, 4), response_bytes=77)
    assert (world.inflight, world.telemetry.ended, len(world.exchanges)) == (0, 1, 0)
    assert world.outcomes == world.telemetry.outcomes == [Outcome("natural", 200, SECOND, 2, 5, 77, Usage(5, 9, 4))]
    assert (world.telemetry.streaming, world.telemetry.prompt_tokens) == ([True], [5])
    assert (world.ttft(1), world.first_tokens) == (2, [("r1", SECOND)])
    assert math.isnan(world.ttft(0))


@pytest.mark.parametrize(
    ("began", "body", "complete", "cause"),
    [
        (True, 10, True, "natural"),
        (True, None, False, "natural"),
        (True, 10, False, "client-disconnect"),
        (False, None, False, "client-disconnect"),
    ],
)
def test_cause_as_the_stream_can_tell(*, world: World, began: bool, body: int | None, complete: bool, cause: str) -> None:
    """A stream that breaks off within the answer, or before it, is a client that left; without bodies its end is the end."""
    exchange = world.route({})
    if began:
        world.exchanges.answer_began(exchange, status=200)
    world.exchanges.stream_ended(exchange, complete=complete, response_bytes=body)
    assert world.outcomes[0].cause == cause
    assert world.outcomes[0].served == (FIRST if began else None)


def test_a_given_cause_stands(world: World) -> None:
    """Who knows why the stream ended says so; an eviction stays one whatever the access log makes of it."""
    world.exchanges.stream_ended(world.route({}), cause="error")
    evicted = world.route()
    world.exchanges.stream_ended(evicted, cause="evicted")
    world.exchanges.logged(Entry(lease=evicted.id, cause="error", status=429))
    assert [(outcome.cause, outcome.status) for outcome in world.outcomes] == [("error", None), ("evicted", 429)]


# --- announced: the access log tells the rest ---------------------------------------------------------------------------


def test_held_mode(world: World) -> None:
    """After the answer's headers the stream's end ends the lease at once; the entry brings the rest of the outcome."""
    exchange = world.route()
    world.clock.now += 1
    world.exchanges.answer_began(exchange, status=200)
    world.clock.now += 4
    world.exchanges.stream_ended(exchange)
    assert (world.inflight, world.telemetry.ended, world.finished.total(), world.exchanges.waiting) == (0, 1, 0, 1)
    world.exchanges.logged(Entry(exchange.id, "id", "natural", 200, "via_upstream", SECOND, 0.9, 4.9, 4.9, 50, Usage(1, 2)))
    assert world.outcomes == [Outcome("natural", 200, SECOND, 1, 4.9, 50, Usage(1, 2))]
    assert (world.ttft(0), math.isnan(world.ttft(1))) == (1, True)
    assert (world.telemetry.ended, len(world.exchanges), world.exchanges.waiting) == (1, 0, 0)


def test_released_mode(world: World) -> None:
    """When the stream ends before the answer, the lease is held until the entry comes, and the entry tells the TTFT."""
    exchange = world.route()
    world.exchanges.stream_ended(exchange)
    world.clock.now += 60
    world.exchanges.expire()
    assert (world.inflight, world.telemetry.ended) == (1, 0)
    world.exchanges.logged(Entry(exchange.id, status=200, served=SECOND, ttft=0.5, last_byte=8.0, duration=9.0))
    assert (world.inflight, world.telemetry.ended, world.ttft(1)) == (0, 1, 0.5)
    assert world.outcomes == [Outcome("natural", 200, SECOND, 0.5, 9.0)]
    assert world.first_tokens == []


def test_the_entry_may_come_before_the_stream_ends(world: World) -> None:
    """The entry says the exchange is over; what the stream tells later changes nothing."""
    exchange = world.route()
    world.exchanges.logged(Entry(exchange.id, cause="client-disconnect"))
    assert (world.inflight, world.outcomes) == (0, [Outcome("client-disconnect")])
    world.exchanges.answer_began(exchange, status=200)
    world.exchanges.stream_ended(exchange, complete=True)
    world.exchanges.logged(Entry(exchange.id, cause="error"))
    assert (world.telemetry.ended, world.finished["r1"], world.first_tokens) == (1, 1, [])
    assert world.exchanges.counts.late == 1


def test_stream_and_entry_are_joined(world: World) -> None:
    """What only the stream saw is kept where the entry is silent."""
    exchange = world.route()
    world.exchanges.answer_began(exchange, status=200, served=SECOND)
    world.exchanges.stream_ended(exchange, complete=True, usage=Usage(5, 9, 4), response_bytes=77)
    world.exchanges.logged(Entry(exchange.id, usage=Usage(completion_tokens=8)))
    assert world.outcomes == [Outcome("natural", 200, SECOND, 0, 0, 77, Usage(5, 8, 4))]


def test_only_streamed_good_answers_tell_of_the_first_token(world: World) -> None:
    """An error is quick and an answer in one piece is slow: neither is a time to first token of the endpoint."""
    for stream, status in ((True, 503), (False, 200)):
        exchange = world.route(stream=stream)
        world.exchanges.answer_began(exchange, status=status)
        world.exchanges.stream_ended(exchange)
        exchange = world.route(stream=stream)
        world.exchanges.logged(Entry(exchange.id, status=status, served=FIRST, ttft=1.0, last_byte=1.001))
    assert math.isnan(world.ttft(0))
    exchange = world.route(stream=False)
    world.exchanges.logged(Entry(exchange.id, status=200, served=FIRST, ttft=1.0, last_byte=5.0))
    assert world.ttft(0) == 1.0


def test_intermediate_entries_end_nothing(world: World) -> None:
    """Envoy can log while a request runs; that is not its end."""
    exchange = world.route()
    world.exchanges.logged(Entry(exchange.id, status=200, intermediate=True))
    assert (world.inflight, len(world.exchanges)) == (1, 1)


def test_entries_of_strangers_tell_of_endpoints(world: World) -> None:
    """A restarted picker learns from the answers its predecessor routed, and counts the entries."""
    before = Exchanges(pool=world.pool, telemetry=world.telemetry, clock=world.clock, random=random.Random(2))
    lease = before.register(_Again(world), metadata=ANNOUNCED, started=0.0).id
    world.exchanges.logged(Entry(lease, status=200, served=SECOND, ttft=2.0, last_byte=9.0))
    world.exchanges.logged(Entry("", status=200, served="10.0.0.99:1", ttft=2.0, last_byte=9.0))
    world.exchanges.logged(Entry("", cause="error", status=503))
    assert (world.ttft(1), world.exchanges.counts.unknown, world.exchanges.counts.late) == (2.0, 3, 0)


class _Again:
    """A decision of another registry."""

    def __init__(self, world: World) -> None:
        exchange = world.route()
        self.request, self.endpoints, self.labels = exchange.request, [exchange.endpoint], exchange.labels
        self.lease = world.pool.reserve(exchange.endpoint)


def test_the_same_request_again_is_another_exchange(world: World) -> None:
    """A restarted stream has the same request id; its exchange is counted for itself."""
    first, second = world.route(), world.route()
    second.request.id = first.request.id
    assert first.id != second.id
    world.exchanges.stream_ended(first)
    world.exchanges.logged(Entry(first.id, cause="client-disconnect"))
    assert (world.inflight, world.finished["r1"]) == (1, 1)
    world.exchanges.logged(Entry(second.id, status=200))
    assert (world.inflight, world.finished["r1"]) == (0, 2)


@pytest.mark.parametrize("entry_first", [False, True])
def test_an_entry_without_the_picker_s_metadata_ends_the_exchange_of_its_request(world: World, entry_first: bool) -> None:
    """A client that left while the reply was on its way: the proxy never heard of the exchange, the request id tells."""
    exchange, other = world.route(), world.route()
    entry = Entry("", request_id="r1", cause="client-disconnect", details="downstream_remote_disconnect")
    if entry_first:
        world.exchanges.logged(entry)
        assert world.inflight == 2
        world.exchanges.stream_ended(exchange)
    else:
        world.exchanges.stream_ended(exchange)
        world.exchanges.logged(entry)
    assert (world.inflight, [outcome.cause for outcome in world.outcomes]) == (1, ["client-disconnect"])
    world.exchanges.stream_ended(other)
    world.exchanges.logged(Entry("", request_id="r9", cause="client-disconnect"))
    assert (world.inflight, world.exchanges.counts.unknown) == (1, 1 + entry_first)


def test_the_id_alone_ends_nothing_that_may_still_run(world: World) -> None:
    """An exchange whose stream is open, or which saw its answer, has an entry of its own to come; so has a refusal none."""
    running, answered, refused = world.route(), world.route(), world.route()
    world.exchanges.logged(Entry("", request_id="r1", cause="client-disconnect"))
    assert world.inflight == 3
    assert not running.finished
    world.exchanges.answer_began(answered, status=200)
    world.exchanges.stream_ended(answered)
    world.exchanges.logged(Entry("", request_id="r2", cause="client-disconnect"))
    assert not answered.finished
    world.exchanges.logged(Entry("", request_id="r3", cause="error", status=400, details="epp:invalid_request_error"))
    world.exchanges.stream_ended(refused)
    assert not refused.finished


# --- bodies, hooks --------------------------------------------------------------------------------------------------------


def test_bodies_are_not_kept_for_the_length_of_an_answer(world: World) -> None:
    """From the first byte on, or when the stream is over, body and prompt are gone; their size is still known."""
    held, released = world.route(), world.route()
    assert (held.request.body, held.request.parsed.prompt) == (b"body", b"prompt")
    world.exchanges.answer_began(held)
    world.exchanges.stream_ended(released)
    for exchange in (held, released):
        assert (exchange.request.body, exchange.request.parsed.prompt) == (b"", b"")
        assert exchange.request.parsed.prompt_tokens == 5


def test_a_failing_plugin_harms_nobody(world: World) -> None:
    """What a hook raises is counted under its name; the other hooks are called."""
    exchange = world.route({})
    world.exchanges.answer_began(exchange)
    world.exchanges.stream_ended(exchange)
    assert world.telemetry.failed == [("FirstToken", "bad", "broken"), ("Finished", "bad", "broken")]
    assert (world.finished["r1"], world.first_tokens) == (1, [("r1", FIRST)])


def test_endpoint_may_leave_while_it_answers(world: World) -> None:
    """An endpoint that left the pool takes no statistics, and the exchange finishes as ever."""
    exchange = world.route()
    world.pool.update([])
    world.exchanges.answer_began(exchange, status=200)
    world.exchanges.stream_ended(exchange)
    world.exchanges.logged(Entry(exchange.id, status=200, served=FIRST, ttft=1.0, last_byte=2.0))
    assert (exchange.endpoint.leases, world.finished["r1"]) == (0, 1)


# --- nobody tells ----------------------------------------------------------------------------------------------------------


def test_an_envoy_that_is_gone_is_not_waited_for(world: World) -> None:
    """When all log streams of an Envoy closed and none came back in time, its waiting exchanges end, unknown."""
    exchange, other = world.route(), world.route({**ANNOUNCED, "x-epp-node": "envoy-2"})
    open_still = world.route()
    for one in (exchange, other):
        world.exchanges.stream_ended(one)
    for _ in range(2):
        world.exchanges.log_opened("envoy-1")
    world.exchanges.log_closed("envoy-1")
    world.clock.now += 100
    world.exchanges.expire()
    assert world.inflight == 3
    world.exchanges.log_closed("envoy-1")
    world.clock.now += 9.9
    world.exchanges.expire()
    assert world.inflight == 3
    world.clock.now += 0.1
    world.exchanges.expire()
    assert (world.inflight, world.outcomes) == (2, [Outcome("error")])
    assert world.exchanges.counts.gone == 1
    world.exchanges.stream_ended(open_still)
    world.clock.now += 10
    world.exchanges.expire()
    assert (world.inflight, world.exchanges.counts.gone) == (1, 2)


def test_an_envoy_that_dies_before_its_first_entry_is_not_waited_for(world: World) -> None:
    """It never had a log stream: its EDS stream's end tells that it is gone, unless one comes back or the log lives."""
    world.exchanges.proxy_came("envoy-1")
    exchange = world.route()
    world.exchanges.stream_ended(exchange)
    world.exchanges.proxy_left("envoy-1")
    world.clock.now += 5
    world.exchanges.proxy_came("envoy-1")
    world.clock.now += 100
    world.exchanges.expire()
    assert world.inflight == 1
    world.exchanges.log_opened("envoy-1")
    world.exchanges.proxy_left("envoy-1")
    world.clock.now += 100
    world.exchanges.expire()
    assert world.inflight == 1
    world.exchanges.log_closed("envoy-1")
    world.clock.now += 10
    world.exchanges.expire()
    assert (world.inflight, world.exchanges.counts.gone) == (0, 1)
    late = world.route({**ANNOUNCED, "x-epp-node": "envoy-2"})
    world.exchanges.stream_ended(late)
    world.exchanges.proxy_came("envoy-2")
    world.exchanges.proxy_left("envoy-2")
    world.clock.now += 9.9
    world.exchanges.expire()
    assert world.inflight == 1
    world.clock.now += 0.1
    world.exchanges.expire()
    assert (world.inflight, world.exchanges.counts.gone) == (0, 2)


def test_a_reopened_log_stream_keeps_all_waiting(world: World) -> None:
    """A log stream that comes back within the grace costs nothing."""
    exchange = world.route()
    world.exchanges.stream_ended(exchange)
    world.exchanges.log_opened("envoy-1")
    world.exchanges.log_closed("envoy-1")
    world.clock.now += 5
    world.exchanges.log_opened("envoy-1")
    world.clock.now += 100
    world.exchanges.expire()
    assert world.inflight == 1


def test_age_is_the_last_resort(world: World) -> None:
    """An exchange whose end nobody ever told ends after an hour of waiting; one whose stream is open never does."""
    waiting, running = world.route(), world.route()
    world.clock.now += 5000
    world.exchanges.stream_ended(waiting)
    world.clock.now += 3599
    world.exchanges.expire()
    assert world.inflight == 2
    world.clock.now += 1
    world.exchanges.expire()
    assert (world.inflight, world.exchanges.counts.expired, running.finished) == (1, 1, False)
    assert world.outcomes == [Outcome("error")]


def test_an_answer_that_is_over_is_told_without_its_entry(world: World) -> None:
    """When the entry of a finished answer never comes, the outcome is what the stream saw."""
    exchange = world.route()
    world.exchanges.answer_began(exchange, status=200)
    world.exchanges.stream_ended(exchange)
    world.clock.now += 60
    world.exchanges.expire()
    assert (world.outcomes, world.exchanges.counts.unreported) == ([Outcome("natural", 200, FIRST, 0, 0)], 1)


def test_records_of_answers_that_are_over_are_bounded(world: World) -> None:
    """Beyond the bound the oldest is told early."""
    for _ in range(5):
        exchange = world.route()
        world.exchanges.answer_began(exchange, status=200)
        world.exchanges.stream_ended(exchange)
    assert (list(world.finished), world.exchanges.counts.overflowed, world.exchanges.waiting) == (["r1", "r2"], 2, 3)


def test_closing_finishes_everything(world: World) -> None:
    """When the picker stops, every exchange is told: answers that are over as seen, the others as errors."""
    world.route()
    over, waiting = world.route(), world.route()
    world.exchanges.answer_began(over, status=200)
    world.exchanges.stream_ended(over)
    world.exchanges.stream_ended(waiting)
    world.exchanges.close()
    assert [outcome.cause for outcome in world.outcomes] == ["error", "natural", "error"]
    assert (world.inflight, len(world.exchanges), world.exchanges.waiting, world.telemetry.ended) == (0, 0, 0, 3)
