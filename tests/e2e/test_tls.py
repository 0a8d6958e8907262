"""TLS to the picker, as a real Envoy and a gRPC client see it."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from epp.gateway.wiring import PickerTls
from tests.e2e.stack import stack
from tests.e2e.wire import Channel, chat, picker

EPP = (sys.executable, "-m", "epp")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A CA of the test's own."""

    def __init__(self, name: str) -> None:
        """Make its certificate."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = (
            self._builder(self._name, self._key).add_extension(constraints, critical=True).sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def file(self, directory: Path) -> str:
        """Write its certificate to a file."""
        path = directory / f"ca-{id(self)}.pem"
        path.write_bytes(self.pem)
        return str(path)

    def issue(self, *, dns: str = "epp.example") -> Pair:
        """Make a certificate for loopback and the name `dns`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(dns)])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "picker")])
        signed = self._builder(subject, key).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        return Pair(
            signed.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )


def write(directory: Path, pair: Pair) -> None:
    """Put the files where `--cert-path` looks for them, each in one go."""
    for name, content in (("tls.crt", pair.certificate), ("tls.key", pair.key)):
        fresh = directory / f"{name}.new"
        fresh.write_bytes(content)
        fresh.replace(directory / name)


async def shown(port: int) -> bytes:
    """Give the certificate that the server at `port` shows, PEM."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    session: ssl.SSLObject = writer.get_extra_info("ssl_object")
    assert session.selected_alpn_protocol() == "h2"
    der = session.getpeercert(binary_form=True)
    writer.close()
    assert der is not None
    return ssl.DER_cert_to_PEM_cert(der).encode()


async def test_the_self_signed_default_with_an_envoy_that_verifies_nothing() -> None:
    """Out of the box the port speaks TLS: Envoy's `unverified` reaches it for ext_proc, access log, EDS and health alike."""
    async with stack(2, failure="close", tls=PickerTls()) as running:
        answer = await running.chat()
        assert answer.status == 200
        (decision,) = (await running.state(f"/api/decisions?request_id={answer.request_id}"))["decisions"]
        assert decision["endpoint"] == answer.served

        async def told() -> bool:
            return await running.metric("llm_d_epp_request_output_tokens_sum") == 4

        await running.until(told)
        with pytest.raises(grpc.aio.AioRpcError):
            async with Channel(running.ports["grpc"]) as plain:
                await plain.check("")
        async with Channel(running.ports["health"]) as health:  # this one is plain, for Kubernetes' probes
            assert await health.check("") == 1


@pytest.mark.parametrize("name", ["", "epp.example"])
async def test_a_certificate_that_envoy_verifies(name: str, tmp_path: Path) -> None:
    """With a CA file Envoy verifies chain and name, address or DNS; new files are shown to new connections."""
    authority = Authority("ours")
    first = authority.issue()
    write(tmp_path, first)
    tls = PickerTls(ca_file=authority.file(tmp_path), name=name)
    arguments = [f"--cert-path={tmp_path}", "--enable-cert-reload"]
    async with stack(1, failure="close", tls=tls, arguments=arguments) as running:
        assert (await running.chat()).status == 200
        port = running.ports["grpc"]
        assert await shown(port) == first.certificate
        second = authority.issue()
        write(tmp_path, second)
        assert await shown(port) == second.certificate
        assert (await running.chat()).status == 200


@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_an_impostor_is_not_asked(wrong: str, tmp_path: Path) -> None:
    """A certificate of another CA, or for another name, is refused by Envoy: with FailClose nobody is served."""
    authority = Authority("ours")
    write(tmp_path, (Authority("ours") if wrong == "authority" else authority).issue())
    tls = PickerTls(ca_file=authority.file(tmp_path), name="other.example" if wrong == "name" else "")
    async with stack(1, failure="close", tls=tls, arguments=[f"--cert-path={tmp_path}"]) as running:
        for answer in (await running.chat(), await running.request("GET", "/v1/models")):
            assert answer.status == 503
        assert not running.servers[0].requests
        assert await running.metric("llm_d_epp_request_total") == 0


async def test_a_client_certificate_may_be_demanded(tmp_path: Path) -> None:
    """With --client-ca-path only clients whose certificate that CA signed are served; the health port stays open."""
    servers, clients = Authority("servers"), Authority("clients")
    write(tmp_path, servers.issue())
    arguments = [f"--cert-path={tmp_path}", f"--client-ca-path={clients.file(tmp_path)}", "--endpoints=127.0.0.1:9"]
    async with picker(*arguments, secure=True) as alone:
        own = clients.issue()
        async with Channel(alone.ports["grpc"], grpc.ssl_channel_credentials(servers.pem, own.key, own.certificate)) as trusted:
            exchange = trusted.exchange()
            assert await exchange.routed(chat()) == "127.0.0.1:9"
            await exchange.finish()
        foreign = servers.issue()
        for credentials in (
            grpc.ssl_channel_credentials(servers.pem),
            grpc.ssl_channel_credentials(servers.pem, foreign.key, foreign.certificate),
        ):
            async with Channel(alone.ports["grpc"], credentials) as stranger:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await stranger.check("")
                assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        async with Channel(alone.ports["health"]) as health:
            assert await health.check("") == 1


async def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path) -> None:
    """A key that does not belong to the certificate is named, not served."""
    one, two = Authority("a").issue(), Authority("a").issue()
    write(tmp_path, Pair(one.certificate, two.key))
    process = await asyncio.create_subprocess_exec(
        *EPP, "serve", f"--cert-path={tmp_path}", "--endpoints=127.0.0.1:9", "--grpc-port=0", "--grpc-health-port=0",
        "--metrics-port=0", "--log-format=json", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert "tls.key" in output.decode()
    assert "is not the key of the certificate" in output.decode()
