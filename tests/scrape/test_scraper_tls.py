"""Scraping over TLS: unverified by default, verified by a CA when told, with a client certificate."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp.endpoints.endpoint import EndpointSpec

from .conftest import ModelServer

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Bench, Eventually


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "model server")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


@pytest.fixture
async def secure(certificate: tuple[Path, Path]) -> AsyncIterator[ModelServer]:
    """Run a model server that speaks TLS and asks for a client certificate, which it does not insist on."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_OPTIONAL
    server = ModelServer()
    await server.start(context)
    yield server
    await server.kill()


async def test_a_self_signed_certificate_is_accepted_by_default(
    bench: Bench, secure: ModelServer, eventually: Eventually
) -> None:
    """As in the reference, model servers' certificates are not verified unless asked."""
    bench.options = replace(bench.options, scheme="https")
    bench.pool.update([EndpointSpec("127.0.0.1", secure.port)])
    async with bench.scraping():
        await eventually(lambda: bench.pool.columns["waiting"][0] == 1)
    assert not any(secure.client_certificates)


async def test_an_unknown_certificate_is_a_failure_but_not_an_absence(
    bench: Bench, secure: ModelServer, eventually: Eventually
) -> None:
    """With verification on, an untrusted server gives no values; it is there all the same."""
    bench.options = replace(bench.options, scheme="https", insecure_skip_verify=False)
    bench.pool.update([EndpointSpec("127.0.0.1", secure.port)])
    key = bench.pool.endpoints[0].key
    async with bench.scraping():
        await eventually(lambda: bench.reports.failed[key, "connect"] >= 2)
    assert not bench.pool.columns["unreachable"][0]
    assert not bench.reports.good


async def test_a_trusted_ca_and_a_client_certificate(
    bench: Bench, secure: ModelServer, certificate: tuple[Path, Path], eventually: Eventually
) -> None:
    """A server whose CA is given is verified and scraped, with our own certificate at hand."""
    cert_path, key_path = certificate
    bench.options = replace(
        bench.options,
        scheme="https",
        insecure_skip_verify=False,
        ca_path=cert_path,
        cert_path=cert_path,
        key_path=key_path,
    )
    bench.pool.update([EndpointSpec("127.0.0.1", secure.port)])
    async with bench.scraping():
        await eventually(lambda: bench.pool.columns["waiting"][0] == 1)
    assert all(secure.client_certificates)
