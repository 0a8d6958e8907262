"""What the scraper is told: where the pages are, how to read them, how often. Values only."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from epp.errors import ConfigError
from epp.scrape.engines import BUILT_IN, Engine
from epp.scrape.pace import Pace

ENGINE_LABEL = "llm-d.ai/engine-type"
OLD_ENGINE_LABEL = "inference.networking.k8s.io/engine-type"


@dataclass(frozen=True, slots=True)
class ScrapeOptions:
    """How endpoints are scraped. `port` overrides the endpoint's own; the paths name PEM files.

    Certificates are not verified by default, as in the reference: model servers carry self-signed ones.
    """

    scheme: str = "http"
    path: str = "/metrics"
    port: int | None = None
    insecure_skip_verify: bool = True
    ca_path: Path | None = None
    cert_path: Path | None = None
    key_path: Path | None = None
    pace: Pace = field(default_factory=Pace)
    timeout: float = 1.0
    max_bytes: int = 8 << 20
    engine_label: str = ENGINE_LABEL
    default_engine: str = "vllm"
    engines: Sequence[Engine] = tuple(BUILT_IN.values())

    def tls(self) -> ssl.SSLContext:
        """Load the TLS files; raise ConfigError naming the one that cannot be used."""
        context = ssl.create_default_context()
        if self.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca_path:
            context = self._verifying(self.ca_path)
        if self.cert_path:
            try:
                context.load_cert_chain(self.cert_path, self.key_path)
            except (OSError, ssl.SSLError) as error:
                message = f"cannot use this client certificate with key {self.key_path}: {error}"
                raise ConfigError(message, file=str(self.cert_path), key="clientCertPath") from error
        return context

    @staticmethod
    def _verifying(ca_path: Path) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=str(ca_path))
        except (OSError, ssl.SSLError) as error:
            message = f"cannot be used as a CA bundle: {error}"
            raise ConfigError(message, file=str(ca_path), key="caCertPath") from error
