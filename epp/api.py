"""All that a plugin may import: the vocabulary, and the one verb of each kind of plugin.

A plugin is a plain class; having the verb makes it that kind (a class may have several verbs). Its constructor takes
nothing, or `parameters` (annotated with a subclass of `Parameters`), or `parameters, services`:

    class TierScorer:
        def __init__(self, parameters: TierParameters) -> None: ...
        def score(self, request: Request, pool: Candidates) -> Scores: ...

Verbs are synchronous and do no I/O: a decision is made without giving up the event loop. Arrays are aligned with the
candidates. What a plugin raises is counted and logged; it never fails a request that could have been routed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar, runtime_checkable

import pydantic
from pydantic.alias_generators import to_camel

from epp.endpoints.candidates import Candidates, Floats, Mask, Rows
from epp.endpoints.endpoint import Endpoint, EndpointSpec, join_address, split_address
from epp.endpoints.pool import Pool, Signals
from epp.errors import BadRequest, ConfigError, NoEndpoints, Rejection, Saturated
from epp.prefix.hashing import block_hashes
from epp.prefix.index import PrefixIndex

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from epp.clock import Clock

__all__ = [
    "Admitter", "BadRequest", "Candidates", "ConfigError", "Data", "Discovery", "Endpoint", "EndpointSpec", "Filter", "Floats",
    "Mask", "NoEndpoints", "Outcome", "Parameters", "Parsed", "Parser", "Pick", "Picker", "Pool", "PrefixIndex", "PrefixMatch",
    "Producer", "ProfileHandler", "Rejection", "Request", "Rows", "Saturated", "Scorer", "Scores", "Services", "Signals",
    "TokenLoad", "Usage", "UsageReader", "block_hashes", "join_address", "split_address",
]  # fmt: skip

Scores: TypeAlias = Floats  # one float in [0, 1] per candidate; NaN = this scorer does not know


class Parameters(pydantic.BaseModel):
    """Base of a plugin's parameters: typed, validated, camelCase in the configuration, unknown keys refused."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


@dataclass(frozen=True, slots=True)
class Services:
    """What the picker hands to a plugin that asks for it. `directory` is the configuration file's, for relative paths."""

    name: str
    clock: Clock
    random: random.Random
    directory: Path


# --- the request ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Parsed:
    """What a parser read from a request. `model` is None when the API carries none; `prompt` is what prefixes are taken from.

    `prompt` is a stretch of bytes that grows at its end as a conversation grows; it is hashed, never logged.
    `prompt_tokens` is exact when the request carries token ids, else an estimate (4 bytes a token).
    """

    model: str | None = None
    stream: bool = False
    prompt: bytes = b""
    prompt_tokens: int = 0
    max_tokens: int | None = None
    cache_salt: str = ""


class Data:
    """Base of what producers attach to a request. Arrays in it span the whole pool: cut them with `Candidates.take`.

    `default_producer` is the plugin type that is created when something needs this data and nothing configured produces it.
    """

    default_producer: ClassVar[str] = ""


@dataclass(slots=True)
class PrefixMatch(Data):
    """How much of the prompt's prefix each endpoint is believed to hold: `matched` blocks of `total`, `block_tokens` each."""

    default_producer: ClassVar[str] = "approx-prefix-cache-producer"
    matched: Floats
    total: int
    block_tokens: int


@dataclass(slots=True)
class TokenLoad(Data):
    """How many tokens this request would add on each endpoint: its uncached prompt (and, if configured, its output)."""

    default_producer: ClassVar[str] = "inflight-load-producer"
    tokens: Floats


D = TypeVar("D", bound=Data)


@dataclass(slots=True)
class Request:
    """One request on its way. Header names are lower case. `body` is exactly what came."""

    id: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False, default=b"")
    parsed: Parsed = field(repr=False, default_factory=Parsed)
    model: str = ""  # as the client named it; empty when the API carries none
    target_model: str = ""  # as the model server will read it
    base_model: str = ""  # what `target_model` is an adapter of, or itself; empty when unknown
    priority: int = 0
    fairness_id: str = "default-flow"
    data: dict[tuple[type[Data], str], Data] = field(repr=False, default_factory=dict)

    def attach(self, data: Data, producer: str = "") -> None:
        """Attach what a producer found; `producer` is its configured name, so that two of a kind can live together."""
        self.data[type(data), producer] = data
        self.data[type(data), ""] = data

    def get(self, kind: type[D], producer: str = "") -> D | None:
        """Give the data of `kind` (of the named producer, else of the last one), or None."""
        found = self.data.get((kind, producer))
        return found if isinstance(found, kind) else None


@dataclass(slots=True)
class Usage:
    """Token counts as the model server reported them; None where it did not."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(slots=True)
class Outcome:
    """How a routed request ended. Seconds count from the picker's first sight of the request.

    `cause` is `natural`, `client-disconnect`, `evicted` or `error`; `served` the endpoint that answered (`ip:port`).
    """

    cause: str = "natural"
    status: int | None = None
    served: str | None = None
    ttft: float | None = None
    duration: float | None = None
    response_bytes: int | None = None
    usage: Usage = field(default_factory=Usage)


@dataclass(slots=True)
class Pick:
    """What one profile chose: `endpoints` best first, and why: every candidate's total and its parts.

    `parts` holds (plugin name, weight, scores before weighting), aligned with `candidates`.
    """

    profile: str
    endpoints: Sequence[Endpoint]
    candidates: Sequence[Endpoint] = ()
    totals: Scores | None = None
    parts: Sequence[tuple[str, float, Scores]] = ()


# --- the verbs ------------------------------------------------------------------------------------------------------------


@runtime_checkable
class Filter(Protocol):
    """Narrows the candidates."""

    def filter(self, request: Request, pool: Candidates) -> Mask:
        """Say for each candidate whether it may serve the request."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Rates the candidates."""

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Rate each candidate in [0, 1], higher is better; NaN where the endpoint's state is unknown."""
        ...


@runtime_checkable
class Picker(Protocol):
    """Turns weighted totals into a choice."""

    def pick(self, request: Request, pool: Candidates, totals: Scores) -> Rows:
        """Give positions of candidates, the choice first, then fallbacks for the proxy."""
        ...


@runtime_checkable
class ProfileHandler(Protocol):
    """Decides which scheduling profiles run, and which one's choice is the answer."""

    def profiles(self, request: Request, available: Sequence[str], done: Mapping[str, Pick | None]) -> Sequence[str]:
        """Name the profiles to run next; empty ends the scheduling. `done` holds None for a profile that found nobody."""
        ...

    def primary(self, request: Request, done: Mapping[str, Pick | None]) -> str:
        """Name the profile whose choice serves the request."""
        ...


@runtime_checkable
class Producer(Protocol):
    """Attaches data to requests, before filters and scorers run.

    Class attributes `produces` and `needs` (tuples of `Data` classes) order producers; scorers and filters may have
    `needs` too. Optional verbs of any plugin: `routed(request, endpoints)` after the choice, `first_token(request,
    endpoint)`, `finished(request, outcome)` exactly once a routed request, `departed(endpoint)` when one left the pool.
    """

    produces: ClassVar[tuple[type[Data], ...]]

    def produce(self, request: Request, pool: Candidates) -> None:
        """Attach what this producer knows about `request` with `request.attach(...)`."""
        ...


@runtime_checkable
class Admitter(Protocol):
    """May refuse a request before it is scheduled."""

    def admit(self, request: Request, pool: Candidates) -> None:
        """Return to admit; raise a `Rejection` to refuse."""
        ...


class UsageReader(Protocol):
    """Reads token usage from an answer as it streams by, cut anywhere. Holds a bounded tail, never the answer."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        ...

    def close(self) -> Usage:
        """The answer is over: give what was found."""
        ...


@runtime_checkable
class Parser(Protocol):
    """Reads one family of request bodies. `paths` are the path suffixes it claims; none makes it the fallback."""

    paths: ClassVar[tuple[str, ...]]

    def parse(self, path: str, headers: Mapping[str, str], body: bytes) -> Parsed:
        """Read what routing needs, in one pass; raise `BadRequest` with what to change."""
        ...

    def usage(self, content_type: str) -> UsageReader | None:
        """Give a reader for an answer of `content_type`, or None when this API reports no usage in it."""
        ...


@runtime_checkable
class Discovery(Protocol):
    """Finds the endpoints. The one kind of plugin that does I/O."""

    async def run(self, update: Callable[[Iterable[EndpointSpec]], Any]) -> None:
        """Call `update` with the whole membership, first as soon as it is known, then at each change; until cancelled."""
        ...
