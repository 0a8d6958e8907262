"""The two clusters of the proxy: the picker, and the pool of model servers that the picker announces over EDS.

Decides names, health checks, limits and TLS. It knows nothing of filters and routes.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.clusters.common.dns import v3 as common_dns
from envoy_data_plane.envoy.extensions.clusters.dns import v3 as dns
from envoy_data_plane.envoy.extensions.load_balancing_policies.override_host import v3 as override_host
from envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin import v3 as round_robin
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as http
from envoy_data_plane.envoy.type import v3 as envoy_type
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.envoy.type.metadata import v3 as metadata
from envoy_data_plane.google.protobuf import Any

from epp.gateway.wiring import Failure, HostPort, PickerTls, Wiring

PICKER = "picker"
NAMESPACE = "envoy.lb"
DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
HEALTH_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
UNLIMITED = 1_000_000  # circuit breakers: admission is the picker's business, not a limit of 1,024 hidden in the proxy


def address(place: HostPort) -> core.Address:
    """Give `place` as Envoy's address."""
    return core.Address(socket_address=core.SocketAddress(address=place.host, port_value=place.port))


def picker_service(wiring: Wiring, initial_metadata: dict[str, str] | None = None) -> core.GrpcService:
    """Give the gRPC service of the picker, for ext_proc, access log and EDS alike."""
    quick = core.BackoffStrategy(base_interval=timedelta(milliseconds=100), max_interval=timedelta(seconds=1))
    return core.GrpcService(
        envoy_grpc=core.GrpcServiceEnvoyGrpc(
            cluster_name=PICKER,
            authority=str(wiring.picker),
            skip_envoy_headers=True,
            retry_policy=core.RetryPolicy(retry_back_off=quick),  # of EDS: a picker that is back is heard within a second
        ),
        initial_metadata=[core.HeaderValue(key=key, value=value) for key, value in (initial_metadata or {}).items()],
    )


def picker_cluster(wiring: Wiring) -> cluster.Cluster:
    """Give the picker's cluster, health-checked so that FailOpen is decided before a body chunk has been sent."""
    host = endpoint.Endpoint(address=address(wiring.picker))
    return cluster.Cluster(
        name=PICKER,
        type=cluster.ClusterDiscoveryType.STATIC if wiring.picker.is_address else None,
        cluster_type=None if wiring.picker.is_address else _dns(),
        connect_timeout=timedelta(seconds=1),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=PICKER,
            endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=[endpoint.LbEndpoint(endpoint=host)])],
        ),
        health_checks=[_health_check(wiring)],
        # FailOpen: with no healthy picker there is no host, so the stream fails before the body goes out. FailClose: when no
        # picker is healthy (0 % is less than 1 %), ask nevertheless: one that is draining says so, and still answers.
        common_lb_config=cluster.ClusterCommonLbConfig(
            healthy_panic_threshold=envoy_type.Percent(value=0 if wiring.failure is Failure.OPEN else 1)
        ),
        outlier_detection=_give_up_at_once(),
        circuit_breakers=_circuit_breakers(),
        typed_extension_protocol_options=_http2(),
        transport_socket=_tls(wiring.picker, wiring.picker_tls) if wiring.picker_tls else None,
    )


def _dns() -> cluster.ClusterCustomClusterType:
    """Resolve the picker's name again and again: every address is a picker, and a container that was replaced has a new one."""
    config = dns.DnsCluster(
        dns_refresh_rate=timedelta(seconds=2),
        dns_failure_refresh_rate=dns.DnsClusterRefreshRate(base_interval=timedelta(seconds=1), max_interval=timedelta(seconds=2)),
        dns_lookup_family=common_dns.DnsLookupFamily.V4_PREFERRED,  # `localhost` is where a picker on 0.0.0.0 listens
    )
    return cluster.ClusterCustomClusterType(name="envoy.clusters.dns", typed_config=Any.pack(config))


def _health_check(wiring: Wiring) -> core.HealthCheck:
    interval = timedelta(seconds=wiring.health_interval)
    return core.HealthCheck(
        timeout=timedelta(seconds=wiring.health_timeout),
        interval=interval,
        no_traffic_interval=interval,  # else a picker that has had no traffic yet is looked at once a minute
        unhealthy_threshold=1,
        healthy_threshold=1,
        grpc_health_check=core.HealthCheckGrpcHealthCheck(service_name=HEALTH_SERVICE),
    )


def _give_up_at_once() -> cluster.OutlierDetection:
    """Take a picker out at its first refused or lost connection; the next health check that succeeds puts it back."""
    return cluster.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=1,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=0,
        enforcing_consecutive_gateway_failure=0,
        enforcing_success_rate=0,
        max_ejection_percent=100,
        base_ejection_time=timedelta(seconds=5),
        max_ejection_time=timedelta(seconds=5),
    )


def _circuit_breakers() -> cluster.CircuitBreakers:
    limits = cluster.CircuitBreakersThresholds(
        max_connections=UNLIMITED, max_pending_requests=UNLIMITED, max_requests=UNLIMITED, max_retries=UNLIMITED
    )
    return cluster.CircuitBreakers(thresholds=[limits])


def _protocol(options: http.HttpProtocolOptions) -> dict[str, Any]:
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": Any.pack(options)}


def _http2() -> dict[str, Any]:
    """HTTP/2 with pings: a picker that hangs or whose host vanished loses its streams in seconds, not in TCP's minutes.

    The picker's server must allow pings at this pace (gRPC's default allows one in five minutes and then hangs up).
    """
    keepalive = core.KeepaliveSettings(interval=timedelta(seconds=5), timeout=timedelta(seconds=3))
    return _protocol(
        http.HttpProtocolOptions(
            explicit_http_config=http.HttpProtocolOptionsExplicitHttpConfig(
                http2_protocol_options=core.Http2ProtocolOptions(connection_keepalive=keepalive)
            )
        )
    )


def _tls(picker: HostPort, settings: PickerTls) -> core.TransportSocket:
    name = settings.name or picker.host
    is_address = HostPort(name, 0).is_address
    validation = None
    if settings.ca_file:
        kind = tls.SubjectAltNameMatcherSanType.IP_ADDRESS if is_address else tls.SubjectAltNameMatcherSanType.DNS
        validation = tls.CertificateValidationContext(
            trusted_ca=core.DataSource(filename=settings.ca_file),
            match_typed_subject_alt_names=[tls.SubjectAltNameMatcher(san_type=kind, matcher=matcher.StringMatcher(exact=name))],
        )
    context = tls.UpstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(alpn_protocols=["h2"], validation_context=validation),
        sni="" if is_address else name,
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def pool_cluster(wiring: Wiring) -> cluster.Cluster:
    """Give the pool's cluster: the picker names members and choice; without a choice, any ready member in turn."""
    source = core.ConfigSource(
        resource_api_version=core.ApiVersion.V3,
        initial_fetch_timeout=timedelta(seconds=2),  # then start without endpoints: they come when the picker does
        api_config_source=core.ApiConfigSource(
            api_type=core.ApiConfigSourceApiType.GRPC,
            transport_api_version=core.ApiVersion.V3,
            grpc_services=[picker_service(wiring)],
        ),
    )
    return cluster.Cluster(
        name=wiring.pool,
        type=cluster.ClusterDiscoveryType.EDS,
        connect_timeout=timedelta(seconds=1),
        eds_cluster_config=cluster.ClusterEdsClusterConfig(eds_config=source, service_name=wiring.pool),
        load_balancing_policy=_policy("override_host", _override_host()),
        circuit_breakers=_circuit_breakers(),
        typed_extension_protocol_options=_protocol(
            http.HttpProtocolOptions(
                # vLLM's server closes idle connections after 5 s. Closing them first avoids sending a request into one that is
                # being closed, which fails and cannot be retried safely.
                common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=timedelta(seconds=4)),
                explicit_http_config=http.HttpProtocolOptionsExplicitHttpConfig(
                    http_protocol_options=core.Http1ProtocolOptions()
                ),
            )
        ),
    )


def _override_host() -> override_host.OverrideHost:
    """Take the choice from the metadata only: a header could be the client's, metadata is the picker's."""
    chosen = metadata.MetadataKey(key=NAMESPACE, path=[metadata.MetadataKeyPathSegment(key=DESTINATION)])
    served = metadata.MetadataKey(key=NAMESPACE, path=[metadata.MetadataKeyPathSegment(key=SERVED)])
    return override_host.OverrideHost(
        override_host_sources=[override_host.OverrideHostOverrideHostSource(metadata=chosen)],
        selected_host_key=served,
        fallback_policy=_policy("round_robin", round_robin.RoundRobin()),
    )


def _policy(name: str, config: override_host.OverrideHost | round_robin.RoundRobin) -> cluster.LoadBalancingPolicy:
    extension = core.TypedExtensionConfig(name=f"envoy.load_balancing_policies.{name}", typed_config=Any.pack(config))
    return cluster.LoadBalancingPolicy(policies=[cluster.LoadBalancingPolicyPolicy(typed_extension_config=extension)])
