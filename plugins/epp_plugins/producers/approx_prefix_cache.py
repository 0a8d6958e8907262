"""Guesses which endpoint holds how much of a prompt's prefix, from where earlier prompts were sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from epp.api import (
    Candidates,
    Data,
    Endpoint,
    Floats,
    Parameters,
    PrefixIndex,
    PrefixMatch,
    Request,
    Rows,
    Services,
    block_hashes,
)

MIN_BLOCK_TOKENS = 64  # smaller blocks cost memory and time without telling prompts apart any better
DEFAULT_BLOCK_TOKENS = 16
MAX_BLOCK_TOKENS = 65_536  # more than this is no block size, whatever a scraped page says
DEFAULT_CAPACITY = 31_250
MAX_CAPACITY = 10**9


class ApproxPrefixCacheParameters(Parameters):
    """Parameters of `approx-prefix-cache-producer`."""

    auto_tune: bool = Field(
        default=True, description="Whether block size and capacity follow what the model servers report, where they do."
    )
    block_size_tokens: int = Field(
        default=DEFAULT_BLOCK_TOKENS,
        description=f"Tokens of a block, of 4 bytes each; below {MIN_BLOCK_TOKENS} it means that many.",
    )
    block_size: int = Field(default=0, description="Older name of blockSizeTokens, which wins when both are given.")
    hash_block_size: int = Field(default=0, description="Oldest name of blockSizeTokens.")
    max_prefix_tokens_to_match: int = Field(
        default=131_072, ge=0, description="Tokens of a prompt that are looked at; 0 leaves it to maxPrefixBlocksToMatch."
    )
    max_prefix_blocks_to_match: int = Field(
        default=2048,
        ge=0,
        description="Blocks that are looked at when maxPrefixTokensToMatch is 0; 0 as well means the whole prompt.",
    )
    lru_capacity_per_server: int = Field(
        default=DEFAULT_CAPACITY,
        description="Blocks remembered for an endpoint whose cache size is unknown; below 1 it means the default.",
    )
    max_indexed_blocks: int = Field(
        default=2_000_000,
        ge=1,
        description="Blocks remembered over all endpoints, about 130 bytes each; the fullest gives way first.",
    )

    @model_validator(mode="after")
    def _block_size_is_positive(self) -> Self:
        if not self.auto_tune and self.block_tokens <= 0:
            message = "blockSizeTokens must be above 0 when autoTune is false"
            raise ValueError(message)
        return self

    @property
    def block_tokens(self) -> int:
        """The configured block size, from whichever name gives it."""
        if self.block_size_tokens != DEFAULT_BLOCK_TOKENS:
            return self.block_size_tokens
        return next((size for size in (self.block_size, self.hash_block_size) if size > 0), self.block_size_tokens)


@dataclass(slots=True)
class PromptBlocks(Data):
    """The block hashes of a prompt, computed once a request, and the cache sizes that were known at that time.

    `num_blocks` and `block_sizes` are the servers' own, of the endpoints at `rows`; None when they do not matter.
    """

    default_producer: ClassVar[str] = "approx-prefix-cache-producer"
    hashes: list[int]
    block_tokens: int
    rows: Rows | None = None
    num_blocks: Floats | None = None
    block_sizes: Floats | None = None

    def capacity(self, endpoint: Endpoint) -> int | None:
        """Give how many blocks `endpoint` can hold, None when it has not said."""
        if self.rows is None or self.num_blocks is None or self.block_sizes is None:
            return None
        for at in (self.rows == endpoint.row).nonzero()[0].tolist():
            capacity = float(self.num_blocks[at]) * float(self.block_sizes[at]) / self.block_tokens
            if 1 <= capacity <= MAX_CAPACITY:  # NaN is neither
                return int(capacity)
        return None


class ApproxPrefixCacheProducer:
    """Remembers the blocks of the prompts each endpoint was given, least recently used first out.

    The capacity of an endpoint is its KV cache as scraped (blocks times block size), followed as it becomes known or
    changes, else `lruCapacityPerServer`. Learns from each choice; forgets an endpoint that has left the pool.
    """

    produces: ClassVar[tuple[type[Data], ...]] = (PrefixMatch, PromptBlocks)

    def __init__(self, parameters: ApproxPrefixCacheParameters, services: Services) -> None:
        """Start with nothing remembered."""
        self._parameters = parameters
        self._name = services.name
        capacity = parameters.lru_capacity_per_server
        capacity = capacity if capacity > 0 else DEFAULT_CAPACITY
        self.index = PrefixIndex(capacity=capacity, total=parameters.max_indexed_blocks)

    def produce(self, request: Request, pool: Candidates) -> None:
        """Attach the `PrefixMatch` of the request's prompt, and its blocks for when the choice is made."""
        blocks = self._cut(request, pool)
        request.attach(blocks, self._name)
        matched = self.index.match(blocks.hashes, pool.size)
        request.attach(PrefixMatch(matched, len(blocks.hashes), blocks.block_tokens), self._name)

    def routed(self, request: Request, endpoints: Sequence[Endpoint]) -> None:
        """Note that the chosen endpoint will hold this prompt."""
        blocks = request.get(PromptBlocks, self._name)
        if blocks is None or not endpoints:
            return
        self.index.add(endpoints[0], blocks.hashes, capacity=blocks.capacity(endpoints[0]))
        blocks.hashes = []  # the request may live on for minutes

    def departed(self, endpoint: Endpoint) -> None:
        """Forget an endpoint that has left the pool."""
        self.index.remove(endpoint)

    def state(self) -> dict[str, Any]:
        """Tell how much is remembered, for whoever shows it."""
        return {"pairs": self.index.pairs, "blocks": len(self.index)}

    def _cut(self, request: Request, pool: Candidates) -> PromptBlocks:
        parameters = self._parameters
        block_tokens, rows, counts, sizes = parameters.block_tokens, None, None, None
        if parameters.auto_tune:
            rows, counts, sizes = pool.rows, pool.attribute("num_blocks"), pool.attribute("block_size")
            reported = float(np.fmax.reduce(sizes, initial=0.0))  # of several sizes the largest
            if 1.0 <= reported <= MAX_BLOCK_TOKENS:
                block_tokens = int(reported)
        block_tokens = max(MIN_BLOCK_TOKENS, block_tokens)
        hashes = block_hashes(
            request.parsed.prompt,
            block_tokens=block_tokens,
            model=request.target_model,
            salt=request.parsed.cache_salt,
            limit=self._limit(block_tokens),
        )
        return PromptBlocks(hashes, block_tokens, rows, counts, sizes)

    def _limit(self, block_tokens: int) -> int | None:
        if self._parameters.max_prefix_tokens_to_match:
            return self._parameters.max_prefix_tokens_to_match // block_tokens
        return self._parameters.max_prefix_blocks_to_match or None
