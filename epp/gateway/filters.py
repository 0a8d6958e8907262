"""The HTTP filters of the proxy, in their order: strip what only the picker may say, ask the picker, read token usage.

Decides the ext_proc processing mode of each `Mode`. It knows nothing of clusters beyond the picker's gRPC service.
"""

from __future__ import annotations

from datetime import timedelta

import betterproto2
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_rules
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.content_parsers.json import v3 as json_parser
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation
from envoy_data_plane.envoy.extensions.filters.http.json_to_metadata import v3 as json_to_metadata
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.http.sse_to_metadata import v3 as sse_to_metadata
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from epp.gateway.clusters import NAMESPACE, picker_service
from epp.gateway.wiring import Failure, Mode, Wiring

USAGE_NAMESPACE = "epp.usage"

#: Headers that only the picker may set: whoever sets one chooses a server, or claims the gateway did.
PICKER_HEADERS = (
    "x-gateway-destination-endpoint",
    "x-gateway-destination-endpoint-subset",
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-kv-cache-source-host-port",
)

#: Where model servers report usage: OpenAI completions and chat, then the Responses API (plain, and as its last SSE event).
USAGE_PATHS = (
    ("prompt_tokens", ("usage", "prompt_tokens")),
    ("completion_tokens", ("usage", "completion_tokens")),
    ("cached_tokens", ("usage", "prompt_tokens_details", "cached_tokens")),
    ("prompt_tokens", ("usage", "input_tokens")),
    ("completion_tokens", ("usage", "output_tokens")),
    ("cached_tokens", ("usage", "input_tokens_details", "cached_tokens")),
)
SSE_ONLY_PATHS = (
    ("prompt_tokens", ("response", "usage", "input_tokens")),
    ("completion_tokens", ("response", "usage", "output_tokens")),
    ("cached_tokens", ("response", "usage", "input_tokens_details", "cached_tokens")),
)

_SEND, _SKIP = ext_proc.ProcessingModeHeaderSendMode.SEND, ext_proc.ProcessingModeHeaderSendMode.SKIP
_NONE = ext_proc.ProcessingModeBodySendMode.NONE
_BUFFERED = ext_proc.ProcessingModeBodySendMode.BUFFERED
_DUPLEX = ext_proc.ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED

PROCESSING_MODES = {
    Mode.HELD: ext_proc.ProcessingMode(
        request_header_mode=_SEND, request_body_mode=_DUPLEX, request_trailer_mode=_SEND,
        response_header_mode=_SEND, response_body_mode=_NONE, response_trailer_mode=_SEND,
    ),
    Mode.RELEASED: ext_proc.ProcessingMode(
        request_header_mode=_SEND, request_body_mode=_DUPLEX, request_trailer_mode=_SEND,
        response_header_mode=_SKIP, response_body_mode=_NONE, response_trailer_mode=_SKIP,
    ),
    Mode.DUPLEX: ext_proc.ProcessingMode(
        request_header_mode=_SEND, request_body_mode=_DUPLEX, request_trailer_mode=_SEND,
        response_header_mode=_SEND, response_body_mode=_DUPLEX, response_trailer_mode=_SEND,
    ),
    Mode.BUFFERED: ext_proc.ProcessingMode(
        request_header_mode=_SEND, request_body_mode=_BUFFERED, request_trailer_mode=_SEND,
        response_header_mode=_SEND, response_body_mode=_NONE, response_trailer_mode=_SEND,
    ),
}  # fmt: skip


def http_filters(wiring: Wiring) -> list[hcm.HttpFilter]:
    """Give the filter chain. In duplex mode the picker reads usage from the answer itself."""
    usage = [_sse_usage(), _json_usage()] if wiring.usage and wiring.mode is not Mode.DUPLEX else []
    return [
        _filter("envoy.filters.http.header_mutation", _strip()),
        _filter("envoy.filters.http.ext_proc", external_processor(wiring)),
        *usage,
        _filter("envoy.filters.http.router", router.Router()),
    ]


def _filter(name: str, config: betterproto2.Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=name, typed_config=Any.pack(config))


def _strip() -> header_mutation.HeaderMutation:
    removals = [mutation_rules.HeaderMutation(remove=name) for name in PICKER_HEADERS]
    return header_mutation.HeaderMutation(mutations=header_mutation.Mutations(request_mutations=removals))


def external_processor(wiring: Wiring) -> ext_proc.ExternalProcessor:
    """Give the ext_proc filter. Its stream tells the picker that an access-log entry will come, and from which proxy."""
    namespaces = ext_proc.MetadataOptionsMetadataNamespaces
    return ext_proc.ExternalProcessor(
        grpc_service=picker_service(wiring, {"x-epp-completion": "access-log", "x-epp-node": wiring.node}),
        failure_mode_allow=wiring.failure is Failure.OPEN,
        status_on_error=envoy_type.HttpStatus(code=envoy_type.StatusCode.ServiceUnavailable),
        processing_mode=PROCESSING_MODES[wiring.mode],
        message_timeout=timedelta(seconds=wiring.idle_timeout if wiring.mode is Mode.BUFFERED else wiring.message_timeout),
        metadata_options=ext_proc.MetadataOptions(
            forwarding_namespaces=namespaces(untyped=[NAMESPACE, f"{NAMESPACE}.subset_hint"]),
            receiving_namespaces=namespaces(untyped=[NAMESPACE]),
        ),
    )


def _rule(key: str, path: tuple[str, ...]) -> json_to_metadata.JsonToMetadataRule:
    return json_to_metadata.JsonToMetadataRule(
        selectors=[json_to_metadata.JsonToMetadataSelector(key=part) for part in path],
        on_present=json_to_metadata.JsonToMetadataKeyValuePair(
            metadata_namespace=USAGE_NAMESPACE, key=key, type=json_to_metadata.JsonToMetadataValueType.NUMBER
        ),
    )


def _sse_usage() -> hcm.HttpFilter:
    """Read usage from streamed answers as they pass: the last event that has it wins."""
    rules = [json_parser.JsonContentParserRuleConfig(rule=_rule(key, path)) for key, path in USAGE_PATHS + SSE_ONLY_PATHS]
    parser = core.TypedExtensionConfig(
        name="envoy.content_parsers.json", typed_config=Any.pack(json_parser.JsonContentParser(rules=rules))
    )
    config = sse_to_metadata.SseToMetadata(response_rules=sse_to_metadata.SseToMetadataProcessingRules(content_parser=parser))
    return _filter("envoy.filters.http.sse_to_metadata", config)


def _json_usage() -> hcm.HttpFilter:
    """Read usage from JSON answers, which Envoy holds until they are complete."""
    rules = json_to_metadata.JsonToMetadataMatchRules(
        rules=[_rule(key, path) for key, path in USAGE_PATHS],
        allow_content_types_regex=matcher.RegexMatcher(regex=r"application/json\s*;.*"),  # with a charset, as some servers say
    )
    return _filter("envoy.filters.http.json_to_metadata", json_to_metadata.JsonToMetadata(response_rules=rules))
