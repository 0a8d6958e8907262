"""Rejections: what the client gets, and what a plugin may not make of them."""

from __future__ import annotations

import json

import pytest

from epp.errors import BadRequest, ConfigError, NoEndpoints, Rejection, Saturated


def test_the_body_is_openai_s_error_form() -> None:
    """Message, type and code are there; the code is the drop reason where there is one."""
    assert json.loads(BadRequest("no model").body()) == {
        "error": {"message": "no model", "type": "invalid_request_error", "param": None, "code": "bad_request"}
    }
    assert json.loads(NoEndpoints("none").body())["error"]["code"] == "rejected-no-endpoints"
    assert json.loads(Rejection("odd", status=599).body())["error"]["code"] is None


def test_a_plugin_chooses_status_and_reason() -> None:
    """A quota plugin may answer 429 with a reason of its own."""
    quota = Rejection("quota spent", status=429, reason="quota")
    assert (quota.status, quota.reason) == (429, "quota")
    assert (Saturated("full").status, Saturated("full").retry_after) == (429, 1)


@pytest.mark.parametrize("status", [0, 200, 302, 600, "429"])
def test_a_status_that_is_no_error_is_refused(status: int) -> None:
    """Envoy would turn 0 into 200."""
    with pytest.raises((ValueError, TypeError)):
        Rejection("x", status=status)


@pytest.mark.parametrize("reason", ["a\r\nb", "ü", "\ud800"])
def test_a_reason_that_cannot_be_a_header_is_refused(reason: str) -> None:
    """It stands in x-llm-d-request-dropped-reason."""
    with pytest.raises(ValueError, match="printable ASCII"):
        Rejection("x", reason=reason)


def test_a_config_error_names_the_place() -> None:
    """File, line and key come first."""
    assert str(ConfigError("unknown", file="c.yaml", line=3, key="plugins[0].type")) == "c.yaml:3: plugins[0].type: unknown"
    assert str(ConfigError("unknown")) == "unknown"
