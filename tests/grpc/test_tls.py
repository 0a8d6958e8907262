from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc import aio

from epp.errors import ConfigError
from epp.grpc.tls import Certificates, Identity, self_signed, server_credentials, ssl_context
from epp.methods import Metadata

PATH = "/test.Service/Method"
WAIT = 10.0


async def echo(requests: AsyncIterator[bytes], _metadata: Metadata) -> AsyncIterator[bytes]:
    """Send back what comes."""
    async for message in requests:
        yield message


@dataclass
class Authority:
    """A CA of the test's own."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str) -> Authority:
        """Make a CA called `name`, with all that strict verifiers ask for."""
        key = ec.generate_private_key(ec.SECP256R1())
        basic = x509.BasicConstraints(ca=True, path_length=None)
        builder = _builder(name, key).issuer_name(_name(name)).add_extension(basic, critical=True)
        return cls(key, builder.add_extension(_SIGNING, critical=True).sign(key, hashes.SHA256()))

    @property
    def pem(self) -> bytes:
        """The CA's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> Identity:
        """Make a certificate for loopback, with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = _builder(name, key).issuer_name(self.certificate.subject).add_extension(address, critical=False)
        signed = builder.add_extension(issuer, critical=False).sign(self.key, hashes.SHA256())
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Identity(signed.public_bytes(serialization.Encoding.PEM), private)


_SIGNING = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def write(directory: Path, identity: Identity) -> Path:
    """Put the files where the picker looks for them, each exchanged in one go."""
    for name, content in (("tls.crt", identity.certificate), ("tls.key", identity.key)):
        fresh = directory / f"{name}.new"
        fresh.write_bytes(content)
        fresh.replace(directory / name)
    return directory


async def ask(port: int, root: bytes, client: Identity | None = None) -> bytes:
    """Send a message over a connection of its own, verifying the server."""
    credentials = grpc.ssl_channel_credentials(root, client.key if client else None, client.certificate if client else None)
    channel: Any = aio.secure_channel(f"127.0.0.1:{port}", credentials, options=[("grpc.use_local_subchannel_pool", 1)])
    async with channel:
        call = channel.stream_stream(PATH)(timeout=WAIT)
        await call.write(b"hello")
        answer: bytes = await call.read()
        return answer


async def shown(port: int) -> bytes:
    """Give the certificate that the server shows, in DER; fails when ALPN `h2` is not offered."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    assert connection.selected_alpn_protocol() == "h2"
    der = connection.getpeercert(binary_form=True)
    writer.close()
    assert der is not None
    return der


def der(identity: Identity) -> bytes:
    """Give an identity's certificate in DER."""
    return x509.load_pem_x509_certificate(identity.certificate).public_bytes(serialization.Encoding.DER)


async def test_self_signed_by_default(serve: Any) -> None:
    """Without files the picker serves TLS with a certificate of its own making, and logs its fingerprint."""
    with structlog.testing.capture_logs() as logs:
        certificates = Certificates()
    server = await serve({PATH: echo}, credentials=server_credentials(certificates))
    identity = certificates.current()
    assert await shown(server.ports[0]) == der(identity)
    assert await ask(server.ports[0], identity.certificate) == b"hello"
    assert logs[0]["source"] == "self-signed"
    assert logs[0]["sha256"] == identity.fingerprint
    assert len(identity.fingerprint.split(":")) == 32


def test_no_two_self_signed_certificates_are_equal() -> None:
    """The key is made at each start; none is built in."""
    assert self_signed().key != self_signed().key


async def test_files_are_served_and_verified(serve: Any, tmp_path: Path) -> None:
    """A client that trusts the CA verifies the picker by its certificate file."""
    authority = Authority.make("root")
    write(tmp_path, authority.issue("picker"))
    for reload in (False, True):
        server = await serve({PATH: echo}, credentials=server_credentials(Certificates(directory=tmp_path, reload=reload)))
        assert await ask(server.ports[0], authority.pem) == b"hello"
        with pytest.raises(aio.AioRpcError):
            await ask(server.ports[0], Authority.make("stranger").pem)


async def test_new_files_are_shown_to_new_connections(serve: Any, tmp_path: Path) -> None:
    """When the files change, the next connection gets the new certificate, without a restart."""
    authority = Authority.make("root")
    first, second = authority.issue("first"), authority.issue("second")
    server = await serve({PATH: echo}, credentials=server_credentials(Certificates(directory=write(tmp_path, first))))
    assert await shown(server.ports[0]) == der(first)
    write(tmp_path, second)
    assert await shown(server.ports[0]) == der(second)
    assert await ask(server.ports[0], authority.pem) == b"hello"


async def test_without_reload_files_are_read_once(serve: Any, tmp_path: Path) -> None:
    """With reload off, changed files change nothing."""
    authority = Authority.make("root")
    first = authority.issue("first")
    certificates = Certificates(directory=write(tmp_path, first), reload=False)
    server = await serve({PATH: echo}, credentials=server_credentials(certificates))
    write(tmp_path, authority.issue("second"))
    assert await shown(server.ports[0]) == der(first)


@pytest.mark.parametrize("damage", ["garbage", "other key", "missing"])
async def test_broken_new_files_keep_the_old_and_are_logged_once(serve: Any, tmp_path: Path, damage: str) -> None:
    """Files that cannot be used do not break serving; the log says which and why, once; mended files are taken."""
    authority = Authority.make("root")
    first, third = authority.issue("first"), authority.issue("third")
    certificates = Certificates(directory=write(tmp_path, first))
    server = await serve({PATH: echo}, credentials=server_credentials(certificates))
    match damage:
        case "garbage":
            (tmp_path / "tls.crt").write_text("not a certificate")
        case "other key":
            (tmp_path / "tls.key").write_bytes(authority.issue("second").key)
        case _:
            (tmp_path / "tls.key").unlink()
    with structlog.testing.capture_logs() as logs:
        assert await shown(server.ports[0]) == der(first)
        assert await shown(server.ports[0]) == der(first)
    assert [line["event"] for line in logs] == ["new TLS files cannot be used, the old ones stay"]
    assert str(tmp_path) in logs[0]["error"]
    write(tmp_path, third)
    assert await shown(server.ports[0]) == der(third)


@pytest.mark.parametrize("reload", [False, True])
async def test_clients_without_a_certificate_are_refused(serve: Any, tmp_path: Path, reload: bool) -> None:
    """With a client CA, a client needs a certificate signed by it; none, or a stranger's, gets no answer."""
    authority, clients, strangers = Authority.make("root"), Authority.make("clients"), Authority.make("strangers")
    ca = tmp_path / "ca.crt"
    ca.write_bytes(clients.pem)
    certificates = Certificates(directory=write(tmp_path, authority.issue("picker")), client_ca=ca, reload=reload)
    server = await serve({PATH: echo}, credentials=server_credentials(certificates))
    assert await ask(server.ports[0], authority.pem, clients.issue("envoy")) == b"hello"
    for client in (None, strangers.issue("envoy")):
        with pytest.raises(aio.AioRpcError):
            await ask(server.ports[0], authority.pem, client)
    assert server.begun[PATH] == 1


async def test_a_new_client_ca_counts_from_the_next_connection(serve: Any, tmp_path: Path) -> None:
    """When the CA file changes, clients of the new CA are let in and those of the old one are not."""
    old, new = Authority.make("old"), Authority.make("new")
    ca = tmp_path / "ca.crt"
    ca.write_bytes(old.pem)
    certificates = Certificates(client_ca=ca)
    server = await serve({PATH: echo}, credentials=server_credentials(certificates))
    root = certificates.current().certificate
    assert await ask(server.ports[0], root, old.issue("envoy")) == b"hello"
    ca.write_bytes(new.pem + b"\n")
    assert await ask(server.ports[0], root, new.issue("envoy")) == b"hello"
    with pytest.raises(aio.AioRpcError):
        await ask(server.ports[0], root, old.issue("envoy"))


def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path) -> None:
    """At the start a missing, unreadable or unfitting file is an error that names it."""
    authority = Authority.make("root")
    with pytest.raises(ConfigError, match=r"tls\.crt: cannot be read"):
        Certificates(directory=tmp_path)
    write(tmp_path, Identity(b"garbage", authority.issue("picker").key))
    with pytest.raises(ConfigError, match=r"tls\.crt: holds no PEM certificate"):
        Certificates(directory=tmp_path)
    write(tmp_path, Identity(authority.pem, b"garbage"))
    with pytest.raises(ConfigError, match=r"tls\.key: holds no PEM private key"):
        Certificates(directory=tmp_path)
    write(tmp_path, Identity(authority.pem, authority.issue("picker").key))
    with pytest.raises(ConfigError, match=r"tls\.key: is not the key of the certificate"):
        Certificates(directory=tmp_path)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"ca\.crt: holds no PEM certificate"):
        Certificates(client_ca=ca)


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    """A Kubernetes secret changes by a link that points elsewhere, with files of the same size and time."""
    authority = Authority.make("root")
    first, second = tmp_path / "1", tmp_path / "2"
    for directory, name in ((first, "picker"), (second, "pickle")):
        directory.mkdir()
        write(directory, authority.issue(name))
        for file in directory.iterdir():
            os.utime(file, (1, 1))
    link = tmp_path / "data"
    link.symlink_to(first)
    certificates = Certificates(directory=link)
    before = certificates.current()
    link.unlink()
    link.symlink_to(second)
    assert certificates.current().certificate == (second / "tls.crt").read_bytes() != before.certificate


async def test_https_shows_new_files_too(tmp_path: Path) -> None:
    """The context for HTTP servers verifies, requires client certificates, and follows the files."""
    authority, clients = Authority.make("root"), Authority.make("clients")
    ca = tmp_path / "ca.crt"
    ca.write_bytes(clients.pem)
    first, second = authority.issue("first"), authority.issue("second")
    context = ssl_context(Certificates(directory=write(tmp_path, first), client_ca=ca))
    own = tmp_path / "client"
    own.mkdir()
    write(own, clients.issue("prometheus"))

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            writer.write(await reader.readexactly(1))

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]

    async def seen(*, certificate: bool) -> bytes | None:
        client = ssl.create_default_context(cadata=authority.pem.decode())
        if certificate:
            client.load_cert_chain(own / "tls.crt", own / "tls.key")
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        with contextlib.closing(writer):
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            found: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found

    assert await seen(certificate=True) == der(first)
    write(tmp_path, second)
    assert await seen(certificate=True) == der(second)
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        await seen(certificate=False)
    server.close()
    await server.wait_closed()
