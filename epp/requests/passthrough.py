"""The parser of last resort: any body, no model, no prompt. The request is routed by load alone, as the reference does."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from epp.api import Parsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from epp.api import UsageReader


class PassthroughParser:
    """Reads nothing. It claims no path, so it serves what no other parser claims: audio, multipart, unknown APIs.

    The body is not offered as a prompt: in multipart and binary bodies equal beginnings mean nothing, and a prefix
    index full of boundary strings would draw unrelated requests to one server.
    """

    paths: ClassVar[tuple[str, ...]] = ()

    def parse(self, path: str, headers: Mapping[str, str], body: bytes) -> Parsed:  # noqa: ARG002 - the verb's signature
        """Take any body as it is."""
        return Parsed()

    def usage(self, content_type: str) -> UsageReader | None:  # noqa: ARG002 - the verb's signature
        """Give no reader: what an unknown API's answer says is unknown."""
        return None
