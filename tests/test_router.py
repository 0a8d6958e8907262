"""The way of a request through the router, with real parts and plugins that misbehave."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from epp.api import (
    BadRequest,
    Candidates,
    NoEndpoints,
    Parsed,
    PrefixMatch,
    Rejection,
    Request,
    TokenLoad,
)
from epp.requests.openai import OpenAIParser
from epp.telemetry import RequestLabels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from epp.api import Endpoint, Scores

from tests.router_world import CHAT, World, chat


async def test_the_least_loaded_endpoint_is_chosen_and_counted_until_the_lease_ends() -> None:
    """The choice follows the scorer; headers and metadata agree; the lease counts it."""
    world = World()
    world.load(5, 0, 9)
    routed = await world.route(chat())
    assert routed.destination == "10.0.0.2:8000"
    assert routed.set_headers == {"x-gateway-destination-endpoint": b"10.0.0.2:8000", "x-gateway-model-name": b"m"}
    assert routed.metadata == {"x-gateway-destination-endpoint": "10.0.0.2:8000"}
    assert routed.labels == RequestLabels("m", "m", "default-flow", 0)
    assert world.inflight == 1
    assert world.pool.columns["inflight_tokens"][1] > 0
    assert world.journal.kept == [("r1", "10.0.0.2:8000")]
    routed.lease.end()
    assert world.inflight == 0


async def test_two_requests_in_the_same_breath_do_not_take_the_same_slot() -> None:
    """The reservation is part of the choice: the next one sees it."""

    class LeastInflight:
        def score(self, request: Request, pool: Candidates) -> Scores:
            return 1.0 / (1.0 + pool.inflight_requests)

    world = World(scorers=[LeastInflight()])
    chosen = {(await world.route(chat())).destination for _ in range(3)}
    assert len(chosen) == 3


async def test_control_headers_of_the_client_are_removed_or_overwritten() -> None:
    """What a client says in the picker's own headers never reaches a model server."""
    headers = {
        **CHAT, "x-gateway-destination-endpoint": "6.6.6.6:1", "x-prefiller-host-port": "6.6.6.6:1",
        "x-gateway-model-name": "other",
        "x-gateway-base-model-name": "other", "x-llm-d-inference-fairness-id": "new", "x-gateway-inference-fairness-id": "old",
    }  # fmt: skip
    routed = await World().route(chat(), headers)
    assert set(routed.remove_headers) == {
        "x-prefiller-host-port", "x-gateway-base-model-name", "x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id",
    }  # fmt: skip
    assert routed.set_headers["x-gateway-model-name"] == b"m"
    assert routed.set_headers["x-gateway-destination-endpoint"] != b"6.6.6.6:1"
    assert routed.request.fairness_id == "new"


async def test_an_adapter_names_its_base_model() -> None:
    """Both BBR headers are set for a known adapter."""
    routed = await World().route(chat(model="lora"))
    assert routed.set_headers["x-gateway-model-name"] == b"lora"
    assert routed.set_headers["x-gateway-base-model-name"] == b"base"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": [{}]}', b'{"model": 5, "messages": [{}]}', b'{"model": "m"}'])
async def test_a_body_without_a_readable_model_or_prompt_is_refused(body: bytes) -> None:
    """It is answered with 400 and counted, never routed."""
    world = World()
    with pytest.raises(BadRequest):
        await world.route(body)
    assert world.heard.rejected == [(400, None)]
    assert world.inflight == 0


async def test_unknown_paths_are_routed_by_load_only_with_the_passthrough_parser() -> None:
    """With it a picture upload is routed; without it the client is told."""
    headers = {":method": "POST", ":path": "/v1/audio/transcriptions"}
    routed = await World().route(b"\x00\xff", headers)
    assert "x-gateway-model-name" not in routed.set_headers
    assert routed.set_headers["x-request-id"] == routed.request.id.encode()
    with pytest.raises(BadRequest):
        await World(parsers=[OpenAIParser()]).route(b"\x00\xff", headers)


async def test_a_request_without_a_body_goes_to_the_least_in_flight_of_its_subset() -> None:
    """A GET needs no scorer, but respects the subset and counts."""
    world = World()
    world.pool.reserve(world.pool.endpoints[0])
    routed = await world.route(None, {":method": "GET", ":path": "/v1/models"}, subset=[("10.0.0.1", None), ("10.0.0.3", 8000)])
    assert routed.destination == "10.0.0.3:8000"
    assert world.inflight == 2


async def test_a_post_to_an_inference_api_without_any_body_is_refused() -> None:
    """It lacks its model just as an empty body does; to a path that no parser claims it is routed."""
    world = World()
    with pytest.raises(BadRequest, match="empty"):
        await world.route(None)
    assert (world.heard.rejected, world.inflight) == ([(400, None)], 0)
    await world.route(None, {":method": "POST", ":path": "/reset_prefix_cache"})
    await world.route(None, {":method": "OPTIONS", ":path": "/v1/chat/completions"})
    assert world.inflight == 2


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", chat())])
async def test_no_endpoint_is_503(method: str, body: bytes | None) -> None:
    """An empty pool and an empty subset are both told apart from saturation."""
    world = World()
    headers = {**CHAT, ":method": method}
    with pytest.raises(NoEndpoints, match="subset"):
        await world.route(body, headers, subset=[])
    world.pool.update([])
    with pytest.raises(NoEndpoints, match="pool"):
        await world.route(body, headers)
    assert world.heard.rejected == [(503, "rejected-no-endpoints")] * 2


class Broken:
    """Fails in every verb it has."""

    produces: ClassVar[tuple[type, ...]] = ()

    def produce(self, request: Request, pool: Candidates) -> None:
        """Fail."""
        raise RuntimeError

    def routed(self, request: Request, endpoints: Sequence[Endpoint]) -> None:
        """Fail."""
        raise RuntimeError

    def admit(self, request: Request, pool: Candidates) -> None:
        """Fail."""
        raise RuntimeError


async def test_a_broken_plugin_never_loses_a_request() -> None:
    """Producer, admitter and observer fail; the request is routed, each failure counted."""
    world = World(plugins=[Broken()])
    assert (await world.route(chat())).endpoints
    assert world.heard.failed == [("Admitter", "Broken"), ("Producer", "Broken"), ("Routed", "Broken")]


async def test_a_fault_of_our_own_routes_by_least_in_flight_and_is_counted() -> None:
    """A parser or scheduler that raises is our fault: any ready endpoint is better than a lost request."""

    class BrokenParser:
        paths: ClassVar[tuple[str, ...]] = ()

        def parse(self, path: str, headers: Mapping[str, str], body: bytes) -> Parsed:
            raise RuntimeError

        def usage(self, content_type: str) -> None:
            return None

    world = World(parsers=[BrokenParser()])
    assert (await world.route(chat())).endpoints
    world.router._scheduler = None  # type: ignore[assignment]
    world.pool.reserve(world.pool.endpoints[0])
    assert (await world.route(chat())).endpoints
    assert world.heard.faults == ["parse", "parse", "schedule"]


async def test_an_admitter_refuses_with_its_own_status() -> None:
    """The plugin's status reaches the client."""

    class Quota:
        def admit(self, request: Request, pool: Candidates) -> None:
            raise Rejection("quota spent", status=429, reason="quota")

    world = World(plugins=[Quota()])
    with pytest.raises(Rejection, match="quota spent"):
        await world.route(chat())
    assert world.heard.rejected == [(429, "quota")]
    assert world.inflight == 0


async def test_the_lease_takes_the_tokens_the_producer_found() -> None:
    """The uncached tokens of the chosen endpoint are what waits there."""

    class Load:
        produces: ClassVar[tuple[type, ...]] = (TokenLoad,)

        def produce(self, request: Request, pool: Candidates) -> None:
            request.attach(TokenLoad(np.array([1.0, 2.0, 3.0])))

    world = World(plugins=[Load()])
    world.load(9, 9, 0)
    assert (await world.route(chat())).lease.tokens == 3.0


async def test_scores_are_emitted_for_every_candidate_on_request() -> None:
    """With --emit-endpoint-scores the metadata holds every total."""
    world = World(emit_scores=True)
    world.load(0, 5, 10)
    routed = await world.route(chat())
    assert routed.metadata["x-gateway-destination-endpoint-scores"] == {
        "10.0.0.1:8000": 1.0, "10.0.0.2:8000": 0.5, "10.0.0.3:8000": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("matched", [np.array([np.nan] * 3), np.array([1.0]), "nonsense"])
async def test_nonsense_that_a_producer_attached_costs_no_request(matched: Any) -> None:
    """Data of the wrong shape or kind is our loss of knowledge, not the client's loss of an answer."""

    class Nonsense:
        produces: ClassVar[tuple[type, ...]] = (PrefixMatch, TokenLoad)

        def produce(self, request: Request, pool: Candidates) -> None:
            request.attach(PrefixMatch(matched, 4, 64))
            request.attach(TokenLoad(matched))

    world = World(plugins=[Nonsense()])
    world.load(1, 1, 0)
    routed = await world.route(chat())
    assert routed.lease.tokens >= 0
    routed.lease.end()
    assert world.inflight == 0


ODD: Sequence[Any] = (None, {"model": "a\nb"}, {"model": "\ud800"}, {"model": 7}, {"model": "x" * 2000})


@pytest.mark.parametrize("fields", ODD)
async def test_nonsense_of_a_parser_routes_by_load_and_is_counted(fields: Any) -> None:
    """What cannot become a header never reaches Envoy."""
    parsed = Parsed(**fields) if fields is not None else None

    class Odd:
        paths: ClassVar[tuple[str, ...]] = ()

        def parse(self, path: str, headers: Mapping[str, str], body: bytes) -> Parsed:
            return parsed  # type: ignore[return-value]

        def usage(self, content_type: str) -> None:
            return None

    world = World(parsers=[Odd()])
    routed = await world.route(b"{}")
    assert "x-gateway-model-name" not in routed.set_headers
    assert world.heard.faults == ["parse"]


async def test_an_escaped_path_is_the_same_path() -> None:
    """A client cannot hide an inference request behind an escape."""
    routed = await World().route(chat(), {":method": "POST", ":path": "/v1/chat/completion%73?x=%20"})
    assert routed.request.model == "m"


async def test_what_clients_choose_as_ids_is_kept_short() -> None:
    """Request ids and fairness ids of any length fill neither metrics nor the journal."""
    headers = {**CHAT, "x-request-id": "r" * 5000, "x-llm-d-inference-fairness-id": "f" * 5000}
    routed = await World().route(chat(), headers)
    assert len(routed.request.id) == 128
    assert len(routed.labels.fairness_id) == 128


async def test_a_scorer_cannot_change_the_pool() -> None:
    """Endpoints and rows are not a plugin's to change; it fails, the request does not."""

    class Vandal:
        def score(self, request: Request, pool: Candidates) -> Scores:
            pool.rows[:] = 0
            return pool.full(1.0)

    world = World(scorers=[Vandal()])
    assert (await world.route(chat())).endpoints
    assert ("Scorer", "Vandal") in world.heard.failed
    assert isinstance(world.pool.endpoints, tuple)
