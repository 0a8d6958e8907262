"""Exchanges under any interleaving of streams, log entries, time and membership."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from epp.feedback.access_log import Entry
from epp.feedback.registry import Exchange
from tests.feedback.world import FIRST, SECOND, World

NODES = st.sampled_from(["envoy-1", "envoy-2"])


class Interleavings(RuleBasedStateMachine):
    """Events of many exchanges in any order: in flight is what runs, and each exchange finishes exactly once."""

    exchanges: Bundle[Exchange] = Bundle("exchanges")
    streams: Bundle[str] = Bundle("streams")

    def __init__(self) -> None:
        """Start with a fresh world."""
        super().__init__()
        self.world = World(broken=False)
        self.registered: list[Exchange] = []

    @rule(target=exchanges, node=NODES, announced=st.booleans(), stream=st.booleans())
    def register(self, node: str, *, announced: bool, stream: bool) -> Exchange:
        """A request is routed."""
        metadata = {"x-epp-node": node, **({"x-epp-completion": "access-log"} if announced else {})}
        exchange = self.world.route(metadata, stream=stream)
        self.registered.append(exchange)
        return exchange

    @rule(exchange=exchanges, status=st.sampled_from([None, 200, 500]), served=st.sampled_from([None, FIRST, SECOND, "x"]))
    def answer_began(self, exchange: Exchange, status: int | None, served: str | None) -> None:
        """Its answer begins (or is said to, again)."""
        self.world.exchanges.answer_began(exchange, status=status, served=served)

    @rule(exchange=exchanges, complete=st.booleans())
    def stream_ended(self, exchange: Exchange, *, complete: bool) -> None:
        """Its stream ends (or is said to, again)."""
        self.world.exchanges.stream_ended(exchange, complete=complete)

    @rule(exchange=exchanges, cause=st.sampled_from(["natural", "client-disconnect", "error"]), ttft=st.none() | st.floats(0, 9))
    def logged(self, exchange: Exchange, cause: str, ttft: float | None) -> None:
        """Its entry comes (or comes again)."""
        self.world.exchanges.logged(Entry(exchange.id, cause=cause, status=200, served=SECOND, ttft=ttft, last_byte=9.0))

    @rule(exchange=exchanges)
    def logged_without_name(self, exchange: Exchange) -> None:
        """An entry comes that knows only its request."""
        self.world.exchanges.logged(Entry("", request_id=exchange.request.id, cause="client-disconnect"))

    @rule(target=streams, node=NODES)
    def log_opened(self, node: str) -> str:
        """An Envoy opens a log stream."""
        self.world.exchanges.log_opened(node)
        return node

    @rule(node=consumes(streams))
    def log_closed(self, node: str) -> None:
        """One of its log streams closes."""
        self.world.exchanges.log_closed(node)

    @rule(seconds=st.sampled_from([0.5, 9.0, 10.0, 60.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        """Time passes."""
        self.world.clock.now += seconds
        self.world.exchanges.expire()

    @rule(members=st.sampled_from([[], [0], [1], [0, 1]]))
    def membership(self, members: list[int]) -> None:
        """Endpoints come and go; the first always comes back, since requests go to it."""
        specs = [endpoint.spec for endpoint in World().pool.endpoints]
        self.world.pool.update([specs[n] for n in members])
        self.world.pool.update(specs)

    @invariant()
    def books_balance(self) -> None:
        """In flight are exactly the exchanges whose lease lives; every end and every outcome was told once."""
        world = self.world
        running = [exchange for exchange in self.registered if not exchange.ended]
        finished = [exchange for exchange in self.registered if exchange.finished]
        assert world.inflight == len(running) == world.telemetry.started - world.telemetry.ended
        assert world.pool.columns["inflight_tokens"][0] >= 0
        assert dict(world.finished) == {exchange.request.id: 1 for exchange in finished}
        assert len(world.telemetry.outcomes) == len(finished)
        assert len(world.exchanges) == len(self.registered) - len(finished)
        assert world.exchanges.waiting <= len(world.exchanges)

    def teardown(self) -> None:
        """Streams end, time passes: then nothing is in flight and all is told, whoever kept silent."""
        for exchange in self.registered:
            self.world.exchanges.stream_ended(exchange)
        self.time_passes(3600.0)
        self.books_balance()
        assert self.world.inflight == 0
        assert len(self.world.exchanges) == self.world.exchanges.waiting == 0
        assert all(exchange.finished for exchange in self.registered)


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
