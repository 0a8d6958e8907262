"""Naming the Envoy behind a stream."""

from __future__ import annotations

import pytest

from epp.feedback.nodes import OpenStreams, announces_log, node_of, peer_host


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:5000", "10.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[fe80::1%25eth0]:5000", "fe80::1%eth0"),
        ("10.0.0.1:5000", "10.0.0.1"),
        ("[::1]:5000", "::1"),
        ("::1", "::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("unix:/run/envoy.sock", "unix:/run/envoy.sock"),
        ("", ""),
    ],
)
def test_peer_hosts(peer: str, host: str) -> None:
    """A peer's host is the same on every connection it opens."""
    assert peer_host(peer) == host


def test_a_node_names_itself_or_is_known_by_its_host() -> None:
    """The name in the metadata counts, then the host."""
    assert node_of({"x-epp-node": "envoy-1", ":peer": "ipv4:10.0.0.1:1"}) == "envoy-1"
    assert node_of({"x-epp-node": "", ":peer": "ipv4:10.0.0.1:1"}) == "10.0.0.1"
    assert node_of({}) == ""


def test_an_access_log_is_announced() -> None:
    """Only the word itself announces an access log."""
    assert announces_log({"x-epp-completion": "Access-Log "})
    assert not announces_log({"x-epp-completion": "stream"})
    assert not announces_log({})


def test_a_node_is_gone_when_its_last_stream_closed() -> None:
    """Envoy has a log stream for each thread: it is gone when all are closed, and back with the first."""
    streams = OpenStreams()
    streams.opened("a")
    streams.opened("a")
    streams.closed("a", 1.0)
    assert list(streams.gone(9.0)) == []
    streams.closed("a", 2.0)
    assert (list(streams.gone(1.9)), list(streams.gone(2.0))) == ([], ["a"])
    streams.opened("a")
    assert list(streams.gone(9.0)) == []
    streams.closed("a", 3.0)
    streams.forget(2.9)
    assert list(streams.gone(9.0)) == ["a"]
    streams.forget(3.0)
    assert list(streams.gone(9.0)) == []
