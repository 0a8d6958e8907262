"""The state-of-the-world machine: nonces, acceptances, refusals, and never the same answer twice."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from hypothesis import given
from hypothesis import strategies as st

from epp.discovery.subscription import TYPE_URL, Heard, Subscription
from epp.pb.eds_pb2 import DiscoveryRequest, DiscoveryResponse, Status


class Client:
    """A proxy that speaks the protocol by the book, over a subscription."""

    def __init__(self) -> None:
        """Connect."""
        self.subscription = Subscription(("pool",))
        self.nonce = ""
        self.version = ""
        self.resources: dict[str, bytes] = {}
        self.answers = 0

    def say(self, *names: str, error: str = "", nonce: str | None = None) -> Heard:
        """Send a request: the first one, an acceptance, or with `error` a refusal."""
        return self.subscription.hear(
            DiscoveryRequest(
                version_info=self.version,
                resource_names=names,
                type_url=TYPE_URL,
                response_nonce=self.nonce if nonce is None else nonce,
                error_detail=Status(code=13, message=error) if error else None,
            )
        )

    def take(self, version: str, **resources: bytes) -> bool:
        """Take the answer, if there is one."""
        raw = self.subscription.answer(version, resources)
        if raw is None:
            return False
        answer = DiscoveryResponse.FromString(raw)
        assert answer.type_url == TYPE_URL
        assert answer.nonce != self.nonce
        self.nonce, self.version = answer.nonce, answer.version_info
        self.resources = dict(zip(sorted(self.subscription.names), [any_.value for any_ in answer.resources], strict=True))
        assert all(any_ == Any(type_url=TYPE_URL, value=any_.value) for any_ in answer.resources)
        self.answers += 1
        return True


def test_an_accepted_answer_is_not_sent_again() -> None:
    """Asked, answered, accepted: then silence until the content changes, whatever the version does."""
    client = Client()
    assert client.subscription.answer("1", {}) is None
    assert client.say("pool") is Heard.ASKED
    assert client.take("1", pool=b"a")
    assert client.say("pool") is Heard.ACCEPTED
    assert not client.take("1", pool=b"a")
    assert not client.take("2", pool=b"a")
    assert client.take("3", pool=b"b")
    assert (client.version, client.resources) == ("3", {"pool": b"b"})


def test_a_refused_answer_is_not_sent_in_a_loop() -> None:
    """After a refusal only other content is offered."""
    client = Client()
    client.say("pool")
    client.take("1", pool=b"a")
    assert client.say("pool", error="no") is Heard.REFUSED
    assert not client.take("1", pool=b"a")
    assert client.take("2", pool=b"b")
    assert client.say("pool") is Heard.ACCEPTED


def test_a_stale_nonce_is_ignored() -> None:
    """A request that answers an overtaken answer changes nothing, not even the names."""
    client = Client()
    client.say("pool")
    client.take("1", pool=b"a")
    client.take("2", pool=b"b")
    assert client.say("other", nonce="1") is Heard.STALE
    assert client.subscription.names == {"pool"}
    assert client.say("pool", nonce="nonsense") is Heard.STALE


def test_other_names_are_answered_and_dropped_ones_are_not() -> None:
    """A name more is sent at once with all the others; a name less needs no word."""
    client = Client()
    client.say("a")
    assert client.take("1", a=b"x", b=b"y")
    assert client.say("a", "b") is Heard.ASKED
    assert client.take("1", a=b"x", b=b"y")
    assert client.resources == {"a": b"x", "b": b"y"}
    assert client.say("b") is Heard.ASKED
    assert not client.take("1", a=b"x", b=b"y")
    assert client.take("2", a=b"x2", b=b"y2")
    assert client.resources == {"b": b"y2"}
    assert client.say() is Heard.ASKED
    assert not client.take("3", a=b"x3", b=b"y3")


def test_asking_for_everything() -> None:
    """No name in the first request, or `*`, means the configured names."""
    client = Client()
    client.say()
    assert client.take("1", pool=b"a")
    client = Client()
    client.say("*", "more")
    assert client.take("1", pool=b"a", more=b"b")
    assert client.resources == {"pool": b"a", "more": b"b"}


def test_a_client_that_starts_over_is_told_again() -> None:
    """A request without a nonce comes from a client that has nothing, with whatever version from an earlier stream."""
    client = Client()
    client.version = "77"
    client.say("pool", nonce="")
    assert client.take("1", pool=b"a")
    client.say("pool", nonce="")
    assert client.take("1", pool=b"a")


def test_other_types_are_foreign() -> None:
    """Clusters and listeners are not served here; a request without a type is for endpoints."""
    subscription = Subscription(("pool",))
    assert subscription.hear(DiscoveryRequest(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster")) is Heard.FOREIGN
    assert subscription.answer("1", {"pool": b"a"}) is None
    assert subscription.hear(DiscoveryRequest(resource_names=["pool"])) is Heard.ASKED


@given(st.lists(st.tuples(st.sampled_from(["change", "push", "ack", "nack", "stale", "names"]), st.integers(0, 3)), max_size=40))
def test_a_client_ends_up_with_the_current_content(steps: list[tuple[str, int]]) -> None:
    """Whatever order things happen in, after one more push the client has what is true, and another push says nothing."""
    client = Client()
    client.say("n0")
    names, content = ["n0"], {f"n{n}": b"0" for n in range(4)}
    for version, (step, n) in enumerate(steps):
        match step:
            case "change":
                content = dict.fromkeys(content, b"%d" % (version + n))
            case "push":
                client.take(str(version), **content)
            case "ack" if client.nonce:
                client.say(*names)
            case "nack" if client.nonce:
                client.say(*names, error="no")
            case "stale":
                client.say("n3", nonce="gone")
            case "names":
                names = [f"n{i}" for i in range(n + 1)]
                client.say(*names)
    client.take("end", **content)
    assert {name: client.resources[name] for name in names} == {name: content[name] for name in names}
    before = client.answers
    client.say(*names)
    assert not client.take("end", **content)
    assert client.answers == before
