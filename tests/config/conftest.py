"""Small plugins of each kind, a registry of them, and a way from a text to an assembly."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import pytest
from pydantic import Field

from epp.api import (
    Candidates,
    Data,
    EndpointSpec,
    Mask,
    Parameters,
    Parsed,
    Pick,
    Request,
    Rows,
    Scores,
    Services,
    UsageReader,
)
from epp.config.assemble import assemble
from epp.config.assembly import Assembly
from epp.config.load import load_text
from epp.config.problems import ConfigErrors
from epp.config.registry import Registry
from epp.errors import ConfigError

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"

Build: TypeAlias = Callable[[str], Assembly]


def errors(build: Build, text: str) -> list[tuple[int | None, str | None, str]]:
    """Give line, key and message of every error."""
    with pytest.raises(ConfigError) as caught:
        build(text)
    error = caught.value
    return [(one.line, one.key, one.message) for one in (error.errors if isinstance(error, ConfigErrors) else [error])]


class Warmth(Data):
    """What the scorer needs and the producer gives."""

    default_producer = "warmth-producer"


class TierParameters(Parameters):
    """Parameters of the scorer."""

    threshold: int = Field(3, ge=0, description="Where it starts.")
    warmth_producer_name: str = ""


class TierScorer:
    """Scores by tier.

    More about it.
    """

    needs: ClassVar[tuple[type[Data], ...]] = (Warmth,)

    def __init__(self, parameters: TierParameters, services: Services) -> None:
        """Keep what was given."""
        self.parameters = parameters
        self.services = services

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Score."""
        return pool.full(float(len(request.id)))


class PlainScorer:
    """Scores alike."""

    def score(self, request: Request, pool: Candidates) -> Scores:
        """Score."""
        return pool.full(float(len(request.id)))


class PlainFilter:
    """Keeps everybody."""

    def filter(self, request: Request, pool: Candidates) -> Mask:
        """Keep."""
        return pool.full(float(len(request.id))) >= 0.0


class PlainPicker:
    """Takes them in order."""

    def pick(self, request: Request, pool: Candidates, totals: Scores) -> Rows:
        """Pick."""
        return (totals + len(request.id) + len(pool)).argsort()


class PlainHandler:
    """Runs all there are."""

    def profiles(self, request: Request, available: Sequence[str], done: Mapping[str, Pick | None]) -> Sequence[str]:
        """Run the rest."""
        return [name for name in available if name not in done and request]

    def primary(self, request: Request, done: Mapping[str, Pick | None]) -> str:
        """Take the first."""
        return next(name for name in done if request)


class WarmthProducer:
    """Produces warmth."""

    produces: ClassVar[tuple[type[Data], ...]] = (Warmth,)

    def produce(self, request: Request, pool: Candidates) -> None:
        """Attach."""
        request.attach(Warmth(), str(len(pool)))


class PlainParser:
    """Reads chats."""

    paths: ClassVar[tuple[str, ...]] = ("chat/completions",)

    def parse(self, path: str, headers: Mapping[str, str], body: bytes) -> Parsed:
        """Read."""
        return Parsed(model=path, prompt=body, cache_salt=headers.get("salt", ""))

    def usage(self, content_type: str) -> UsageReader | None:
        """Report none."""
        raise NotImplementedError(content_type)


class AnyParser(PlainParser):
    """Reads all the rest."""

    paths: ClassVar[tuple[str, ...]] = ()


class PlainDiscovery:
    """Finds nobody."""

    async def run(self, update: Callable[[list[EndpointSpec]], Any]) -> None:
        """Say so."""
        update([])


class PlainAdmitter:
    """Admits everybody."""

    def admit(self, request: Request, pool: Candidates) -> None:
        """Admit."""
        assert request
        assert pool


class MetricsSource:
    """Stands for the metrics source."""


class MetricsExtractor:
    """Stands for the metrics extractor."""


TYPES: dict[str, type] = {
    "tier-scorer": TierScorer, "queue-scorer": PlainScorer, "kv-cache-utilization-scorer": PlainScorer,
    "prefix-cache-scorer": PlainScorer, "decode-filter": PlainFilter, "max-score-picker": PlainPicker,
    "random-picker": PlainPicker, "single-profile-handler": PlainHandler, "all-profiles-handler": PlainHandler,
    "warmth-producer": WarmthProducer, "openai-parser": PlainParser,
    "passthrough-parser": AnyParser, "file-discovery": PlainDiscovery, "admitter": PlainAdmitter,
    "metrics-data-source": MetricsSource, "core-metrics-extractor": MetricsExtractor,
}  # fmt: skip


@pytest.fixture
def types() -> dict[str, type]:
    """The registered types; a test may change them."""
    return dict(TYPES)


@pytest.fixture
def build(types: dict[str, type], tmp_path: Path) -> Build:
    """Load and assemble the text of a configuration whose first two lines are given."""

    def run(text: str) -> Assembly:
        loaded = load_text(HEAD + text, "c.yaml", tmp_path)
        return assemble(loaded, registry=Registry(types), clock=lambda: 7.0, random=random.Random(1))

    return run
