"""An Envoy bootstrap for a `Wiring`, made of Envoy's own typed messages, and its rendering as YAML.

Decides the connection manager, the route and the access log; `clusters` and `filters` decide the rest. It starts nothing.
"""

from __future__ import annotations

from datetime import timedelta

import betterproto2
import yaml
from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.access_loggers.grpc import v3 as grpc_log
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.request_id.uuid import v3 as request_id
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts import v3 as previous_hosts
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Any

from epp.gateway.clusters import NAMESPACE, address, picker_cluster, picker_service, pool_cluster
from epp.gateway.filters import http_filters
from epp.gateway.wiring import HOSTNAME, Wiring, command_of

LOG_NAME = "epp"
TRAILERS = "x-epp-trailers"  # in the picker's metadata: the request ended with trailers
SERVED_HEADER = "x-served-endpoint"  # with `reveal_served`


def build(wiring: Wiring) -> bootstrap.Bootstrap:
    """Give the whole bootstrap: one listener, the picker's cluster, the pool's cluster."""
    manager = Any.pack(_connection_manager(wiring))
    front = listener.Listener(
        name="front",
        address=address(wiring.listen),
        per_connection_buffer_limit_bytes=wiring.body_limit,
        filter_chains=[
            listener.FilterChain(
                filters=[listener.Filter(name="envoy.filters.network.http_connection_manager", typed_config=manager)]
            )
        ],
    )
    return bootstrap.Bootstrap(
        node=core.Node(id="" if wiring.node == HOSTNAME else wiring.node, cluster=wiring.node_cluster),
        admin=bootstrap.Admin(address=address(wiring.admin)),
        static_resources=bootstrap.BootstrapStaticResources(
            listeners=[front], clusters=[picker_cluster(wiring), pool_cluster(wiring)]
        ),
    )


def render(wiring: Wiring) -> str:
    """Give the bootstrap as YAML: the same text for the same wiring, headed by the command that makes it."""
    head = f"# {command_of(wiring)}\n#\n# Made by the command above. Which setting is there why: docs/envoy.md.\n"
    tree = build(wiring).to_dict(casing=betterproto2.Casing.SNAKE)
    return head + yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Plain YAML without anchors, list items indented under their key."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - PyYAML's signature
        super().increase_indent(flow, indentless=False)


def _connection_manager(wiring: Wiring) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix="front",
        use_remote_address=True,
        # A client's request id is kept as it is, so that the picker's and the model server's logs can be joined with its own.
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,
        request_id_extension=hcm.RequestIdExtension(
            typed_config=Any.pack(request_id.UuidRequestIdConfig(pack_trace_reason=False))
        ),
        stream_idle_timeout=timedelta(seconds=wiring.idle_timeout),
        request_headers_timeout=timedelta(seconds=60),
        access_log=[_access_log(wiring)],
        route_config=_routes(wiring),
        http_filters=http_filters(wiring),
    )


def _access_log(wiring: Wiring) -> accesslog.AccessLog:
    config = grpc_log.HttpGrpcAccessLogConfig(
        common_config=grpc_log.CommonGrpcAccessLogConfig(
            log_name=LOG_NAME,
            transport_api_version=core.ApiVersion.V3,
            grpc_service=picker_service(wiring),
            buffer_flush_interval=timedelta(milliseconds=100),
        )
    )
    return accesslog.AccessLog(name="envoy.access_loggers.http_grpc", typed_config=Any.pack(config))


def _routes(wiring: Wiring) -> route.RouteConfiguration:
    """Give a route for everything. A retry goes only where no model server can have begun an answer.

    And never for a request ended by trailers: Envoy 1.40 keeps a copy of the body for the retry, and sends it a second time,
    after the body itself, when ext_proc lets the trailers go on. The picker marks such requests in the metadata.
    """
    retry = route.RetryPolicy(
        retry_on="connect-failure,refused-stream,reset-before-request",
        num_retries=3,
        retry_host_predicate=[
            route.RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=Any.pack(previous_hosts.PreviousHostsPredicate())
            )
        ],
        host_selection_retry_max_attempts=5,
    )
    to_pool = route.Route(
        name="pool",
        match=route.RouteMatch(prefix="/"),
        route=route.RouteAction(cluster=wiring.pool, timeout=timedelta(0), retry_policy=retry),
    )
    once = route.Route(
        name="pool-once",
        match=route.RouteMatch(prefix="/", dynamic_metadata=[_ended_by_trailers()]),
        route=route.RouteAction(cluster=wiring.pool, timeout=timedelta(0)),
    )
    host = route.VirtualHost(
        name="all",
        domains=["*"],
        routes=[once, to_pool],
        request_body_buffer_limit=wiring.body_limit,
        response_headers_to_add=[_served()] if wiring.reveal_served else [],
    )
    return route.RouteConfiguration(name="front", virtual_hosts=[host])


def _ended_by_trailers() -> matcher.MetadataMatcher:
    return matcher.MetadataMatcher(
        filter=NAMESPACE,
        path=[matcher.MetadataMatcherPathSegment(key=TRAILERS)],
        value=matcher.ValueMatcher(string_match=matcher.StringMatcher(exact="true")),
    )


def _served() -> core.HeaderValueOption:
    return core.HeaderValueOption(
        header=core.HeaderValue(key=SERVED_HEADER, value="%UPSTREAM_REMOTE_ADDRESS%"),
        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
