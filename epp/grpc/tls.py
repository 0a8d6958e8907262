"""What the servers show and whom they trust: certificate, key and client CA, from files or made on the spot.

Decides what is fit to serve with: files that cannot be used stop the start; later they are logged and the old ones stay.
Files are looked at when a client connects, so nothing runs in the background. Knows no method and no port.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from epp.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.get_logger(__name__)

CERTIFICATE, KEY = "tls.crt", "tls.key"  # the reference's names, and those of a Kubernetes TLS secret
LOCAL = ("localhost", "127.0.0.1", "::1")
_LIFETIME = dt.timedelta(days=3650)
_SKEW = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate chain and its key, and the CA that clients must come from (None: any client). All PEM."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate, as `openssl x509 -fingerprint` prints it."""
        return x509.load_pem_x509_certificate(self.certificate).fingerprint(hashes.SHA256()).hex(":").upper()


class Certificates:
    """Where a server's identity comes from. `current()` is what is valid now."""

    def __init__(self, *, directory: Path | None = None, client_ca: Path | None = None, reload: bool = True) -> None:
        """Read `tls.crt` and `tls.key` in `directory`; None: self-signed. `reload` follows changes of the files.

        Clients must show a certificate signed by one in the file `client_ca`, if given. Raises ConfigError.
        """
        self.reload = reload and (directory is not None or client_ca is not None)
        self._paths = [] if directory is None else [directory / CERTIFICATE, directory / KEY]
        self._client_ca = client_ca
        self._made = self_signed() if directory is None else None
        self._lock = threading.Lock()  # gRPC asks from threads of its own
        self._seen = self._stamp()
        self._identity = self._read()
        log.info(
            "TLS certificate",
            source=str(directory) if directory else "self-signed",
            sha256=self._identity.fingerprint,
            client_certificates="required" if client_ca else "not asked for",
        )

    def current(self) -> Identity:
        """Give the identity, read again if a file changed."""
        if self.reload:
            with self._lock:
                self._follow()
        return self._identity

    def _follow(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            fresh = self._read()
        except ConfigError as error:
            log.error("new TLS files cannot be used, the old ones stay", error=str(error))
            return
        if fresh != self._identity:
            self._identity = fresh
            log.info("TLS files read again", sha256=fresh.fingerprint)

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Give what changes when a file does."""
        stamps: list[tuple[int, int, int] | None] = []
        for path in (*self._paths, *([self._client_ca] if self._client_ca else [])):
            try:
                found = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)

    def _read(self) -> Identity:
        client_ca = None
        if self._client_ca is not None:
            client_ca = _bytes(self._client_ca)
            _certificates(self._client_ca, client_ca)
        if self._made is not None:
            return Identity(self._made.certificate, self._made.key, client_ca)
        identity = Identity(_bytes(self._paths[0]), _bytes(self._paths[1]), client_ca)
        _check_pair(self._paths[0], self._paths[1], identity)
        return identity


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"cannot be read ({error.strerror or type(error).__name__})"
        raise ConfigError(message, file=str(path)) from error


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        message = "holds no PEM certificate"
        raise ConfigError(message, file=str(path)) from error


def _check_pair(certificate: Path, key: Path, identity: Identity) -> None:
    leaf = _certificates(certificate, identity.certificate)[0]
    try:
        private = serialization.load_pem_private_key(identity.key, None)
    except (ValueError, TypeError) as error:  # TypeError: it has a password
        message = "holds no PEM private key without a password"
        raise ConfigError(message, file=str(key)) from error
    if private.public_key() != leaf.public_key():
        message = f"is not the key of the certificate in {certificate.name}"
        raise ConfigError(message, file=str(key))
    if leaf.not_valid_after_utc < dt.datetime.now(dt.UTC):
        log.warning("TLS certificate has expired", file=str(certificate), not_after=str(leaf.not_valid_after_utc))


def self_signed(hosts: Sequence[str] = LOCAL) -> Identity:
    """Make a certificate for `hosts` that nobody vouches for: it hides the traffic, it does not prove who serves."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Endpoint Picker")])
    now = dt.datetime.now(dt.UTC)
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    return Identity(
        pem,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


# --- for gRPC ---------------------------------------------------------------------------------------------------------


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Give the credentials of a gRPC server. ALPN `h2` is gRPC's own doing."""
    identity = certificates.current()
    mutual = identity.client_ca is not None
    if not certificates.reload:
        pairs = [(identity.key, identity.certificate)]
        return grpc.ssl_server_credentials(pairs, identity.client_ca, require_client_auth=mutual)
    served = [identity]

    def fetch() -> Any:
        now = certificates.current()
        if now is served[0]:
            return None  # gRPC's word for "as before"
        served[0] = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(_configuration(identity), fetch, require_client_authentication=mutual)


def _configuration(identity: Identity) -> Any:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.certificate)], identity.client_ca)


# --- for HTTP ---------------------------------------------------------------------------------------------------------


def ssl_context(certificates: Certificates) -> ssl.SSLContext:
    """Give the context of an HTTPS server."""
    served = certificates.current()
    context = _context(served)
    if certificates.reload:
        latest = [(served, context)]

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _first: ssl.SSLContext) -> None:
            now = certificates.current()
            if now is not latest[0][0]:
                latest[0] = now, _context(now)
            connection.context = latest[0][1]

        context.sni_callback = choose
    return context


def _context(identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory() as directory:  # the ssl module reads keys from files only
        path = Path(directory) / "pair.pem"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:  # noqa: PTH123 - private from the start
            file.write(identity.key + b"\n" + identity.certificate)
        context.load_cert_chain(path)
    if identity.client_ca is not None:
        context.load_verify_locations(cadata=identity.client_ca.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context
