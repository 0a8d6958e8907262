from __future__ import annotations

import math
from typing import Any

import pytest
from epp_plugins.producers.approx_prefix_cache import (
    ApproxPrefixCacheParameters,
    ApproxPrefixCacheProducer,
    PromptBlocks,
)
from pydantic import ValidationError

from epp.api import Pool, PrefixMatch, Request, Services

BLOCK = 256  # bytes of the smallest block


def text(blocks: int, seed: int = 0) -> bytes:
    """Write a prompt of so many different blocks; prompts of one seed are prefixes of each other."""
    return b"".join(f"{seed}:{number}".encode().ljust(BLOCK, b".") for number in range(blocks))


def producer(services: Services, **given: Any) -> ApproxPrefixCacheProducer:
    """Make a producer with these parameters, as the configuration spells them."""
    return ApproxPrefixCacheProducer(ApproxPrefixCacheParameters.model_validate(given), services)


def match(plugin: ApproxPrefixCacheProducer, request: Request, pool: Pool) -> PrefixMatch:
    """Produce, and give what was attached."""
    plugin.produce(request, pool.candidates())
    found = request.get(PrefixMatch, "mine")
    assert found is not None
    return found


def serve(plugin: ApproxPrefixCacheProducer, request: Request, pool: Pool, row: int) -> None:
    """Produce, and route the request to the endpoint at `row`."""
    match(plugin, request, pool)
    plugin.routed(request, [pool.endpoints[row], pool.endpoints[row - 1]])


def test_what_was_routed_is_matched(pool: Any, ask: Any, services: Services) -> None:
    """The chosen endpoint, and no fallback, is believed to hold the prompt; a longer prompt matches up to there."""
    plugin, endpoints = producer(services), pool(3)
    serve(plugin, ask(text(4)), endpoints, 1)
    found = match(plugin, ask(text(6)), endpoints)
    assert (found.matched.tolist(), found.total, found.block_tokens) == ([0.0, 4.0, 0.0], 6, 64)


def test_a_request_that_was_not_routed_teaches_nothing(pool: Any, ask: Any, services: Services) -> None:
    """Only a choice is learned from, not the question."""
    plugin, endpoints = producer(services), pool(1)
    match(plugin, ask(text(4)), endpoints)
    plugin.routed(ask(text(4)), endpoints.endpoints)
    assert match(plugin, ask(text(4)), endpoints).matched.tolist() == [0.0]


def test_a_short_prompt_has_no_blocks(pool: Any, ask: Any, services: Services) -> None:
    """Less than a block is matched by nobody and learned for nobody."""
    plugin, endpoints = producer(services), pool(1)
    serve(plugin, ask(b"short"), endpoints, 0)
    assert match(plugin, ask(b"short"), endpoints).total == 0
    assert plugin.index.pairs == 0


def test_model_and_salt_are_kept_apart(pool: Any, ask: Any, services: Services) -> None:
    """Another target model or another cache salt shares nothing."""
    plugin, endpoints = producer(services), pool(1)
    serve(plugin, ask(text(2), model="a", cache_salt="s"), endpoints, 0)
    assert match(plugin, ask(text(2), model="a", cache_salt="s"), endpoints).matched.tolist() == [2.0]
    assert match(plugin, ask(text(2), model="b", cache_salt="s"), endpoints).matched.tolist() == [0.0]
    assert match(plugin, ask(text(2), model="a"), endpoints).matched.tolist() == [0.0]


def test_matches_follow_endpoints_to_new_rows(pool: Any, ask: Any, services: Services) -> None:
    """When membership changes and rows move, each endpoint keeps its blocks; one that left loses them."""
    plugin, endpoints = producer(services), pool(3)
    for row in (1, 2):
        serve(plugin, ask(text(row)), endpoints, row)
    _, second, third = endpoints.endpoints
    endpoints.update([third.spec, second.spec])
    assert match(plugin, ask(text(2)), endpoints).matched.tolist() == [2.0, 1.0]
    plugin.departed(third)
    endpoints.update([second.spec])
    assert match(plugin, ask(text(2)), endpoints).matched.tolist() == [1.0]
    assert plugin.state() == {"pairs": 1, "blocks": 1}


def test_matches_span_the_pool_for_a_subset_too(pool: Any, ask: Any, services: Services) -> None:
    """What is attached has the pool's length whatever the candidates are."""
    plugin, endpoints = producer(services), pool(3)
    serve(plugin, ask(text(2)), endpoints, 2)
    request = ask(text(2))
    plugin.produce(request, endpoints.candidates([("10.0.0.3", None)]))
    found = request.get(PrefixMatch)
    assert found is not None
    assert found.matched.tolist() == [0.0, 0.0, 2.0]


def test_the_request_keeps_no_hashes(pool: Any, ask: Any, services: Services) -> None:
    """Once learned, the hashes are let go: requests live as long as their answers."""
    plugin, endpoints, request = producer(services), pool(1), ask(text(2))
    serve(plugin, request, endpoints, 0)
    blocks = request.get(PromptBlocks)
    assert blocks is not None
    assert blocks.hashes == []


def test_capacity_follows_what_the_server_reports(pool: Any, ask: Any, services: Services) -> None:
    """Unknown: the configured capacity. Known: blocks times block size. Changed later: followed at the next choice."""
    plugin = producer(services, lruCapacityPerServer=5)
    endpoints = pool(1)
    serve(plugin, ask(text(9)), endpoints, 0)
    assert plugin.index.pairs == 5
    endpoints.attribute("block_size")[:] = 16
    endpoints.attribute("num_blocks")[:] = 32  # 512 tokens, 8 blocks of 64
    serve(plugin, ask(text(9)), endpoints, 0)
    assert plugin.index.pairs == 8
    endpoints.attribute("num_blocks")[:] = 12
    serve(plugin, ask(text(1, seed=1)), endpoints, 0)
    assert plugin.index.pairs == 3
    assert match(plugin, ask(text(9)), endpoints).matched.tolist() == [2.0]


@pytest.mark.parametrize("nonsense", [0.0, -1.0, math.inf, math.nan, 1e300])
def test_nonsense_reports_are_not_followed(pool: Any, ask: Any, services: Services, nonsense: float) -> None:
    """Block sizes and counts that can be none leave the configured ones in force."""
    plugin, endpoints = producer(services, lruCapacityPerServer=5), pool(2)
    endpoints.attribute("block_size")[:] = nonsense
    endpoints.attribute("num_blocks")[:] = nonsense
    serve(plugin, ask(text(9)), endpoints, 0)
    assert match(plugin, ask(text(9)), endpoints).matched.tolist() == [5.0, 0.0]


@pytest.mark.parametrize(
    ("given", "reported", "expected"),
    [
        ({}, [math.nan, math.nan], 64),
        ({}, [16, 128], 128),
        ({}, [math.nan, 256], 256),
        ({"autoTune": False}, [16, 128], 64),
        ({"autoTune": False, "blockSizeTokens": 96}, [16, 128], 96),
        ({"blockSizeTokens": 96}, [math.nan, math.nan], 96),
        ({"blockSize": 80}, [math.nan, math.nan], 80),
        ({"hashBlockSize": 80}, [math.nan, math.nan], 80),
        ({"blockSize": 80, "blockSizeTokens": 96}, [math.nan, math.nan], 96),
        ({"blockSizeTokens": 0}, [math.nan, math.nan], 64),
    ],
)
def test_the_block_size(  # noqa: PLR0917 - three are cases
    pool: Any, ask: Any, services: Services, given: Any, reported: list[float], expected: int
) -> None:
    """Tuned: the largest reported. Else the configured one, under its new or old names. Never below 64 tokens."""
    endpoints = pool(block_size=reported)
    assert match(producer(services, **given), ask(text(4)), endpoints).block_tokens == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 2048),
        ({"maxPrefixTokensToMatch": 640}, 10),
        ({"maxPrefixTokensToMatch": 640, "maxPrefixBlocksToMatch": 3}, 10),
        ({"maxPrefixTokensToMatch": 0, "maxPrefixBlocksToMatch": 3}, 3),
        ({"maxPrefixTokensToMatch": 0}, 2048),
        ({"maxPrefixTokensToMatch": 0, "maxPrefixBlocksToMatch": 0}, 2100),
    ],
)
def test_long_prompts_are_cut(pool: Any, ask: Any, services: Services, given: Any, expected: int) -> None:
    """The bound in tokens wins over the bound in blocks; without either the whole prompt is looked at."""
    assert match(producer(services, **given), ask(text(2100)), pool(1)).total == expected


@pytest.mark.parametrize(
    "given",
    [
        {"autoTune": False, "blockSizeTokens": 0},
        {"maxPrefixTokensToMatch": -1},
        {"maxPrefixBlocksToMatch": -1},
        {"blocksize": 16},
    ],
)
def test_parameters_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    """What cannot be meant stops the start."""
    with pytest.raises(ValidationError):
        ApproxPrefixCacheParameters.model_validate(given)


def test_a_capacity_below_one_means_the_default(services: Services) -> None:
    """As in the reference."""
    assert producer(services, lruCapacityPerServer=0).index.capacity == 31250
