"""The catalogue: every metric's name, meaning, labels and buckets. Where the reference has the metric, they are its own.

Names stand without the prefix `llm_d_epp_`, those of counters without `_total`. Nothing here counts.
"""

from __future__ import annotations

from epp.admin.histogram import Family

REQUEST = ("model_name", "target_model_name", "fairness_id", "priority")
ENDPOINT = ("name", "model_server_endpoint")
PLUGIN = ("extension_point", "plugin_type", "plugin_name")
_PREFIX = ("plugin_name", "plugin_type")

_ANSWER_SECONDS = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120,
)  # fmt: skip
_DURATION_SECONDS = (*_ANSWER_SECONDS, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600)
_SCHEDULER_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
# 32778, not 32768: the reference's bucket, and buckets that differ cannot be added up.
_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32778, 65536, 131072, 262144, 524288, 1048576)


def _request_histogram(name: str, text: str, bounds: tuple[float, ...], labels: tuple[str, ...] = REQUEST) -> Family:
    return Family(name, text, labels, "histogram", bounds)


# --- requests ---------------------------------------------------------------------------------------------------------

REQUESTS = Family("request", "Requests that were read, by model.", REQUEST)
REQUEST_ERRORS = Family("request_error", "Requests that ended in an error.", (*REQUEST, "error_code"))
RUNNING = Family("request_running", "Requests that run on a model server now.", REQUEST, "gauge")
REQUEST_SIZE = _request_histogram("request_size_bytes", "Size of request bodies.", tuple(2.0**n for n in range(6, 31)))
DURATION = _request_histogram(
    "request_duration_seconds", "From the first sight of a request to the end of its answer.", _DURATION_SECONDS
)
RESPONSE_SIZE = _request_histogram("response_size_bytes", "Size of answers.", _TOKENS[:15])
INPUT_TOKENS = _request_histogram(
    "request_input_tokens", "Prompt tokens as the model server counted them, or estimated where it did not tell.", _TOKENS
)
OUTPUT_TOKENS = _request_histogram("request_output_tokens", "Tokens of answers.", _TOKENS[:12])
CACHED_TOKENS = _request_histogram(
    "request_cached_tokens", "Prompt tokens that the model server read from its cache, as it reported them.", _TOKENS
)
NTPOT = _request_histogram(
    "request_ntpot_seconds",
    "Duration of a request divided by the tokens of its answer.",
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
TTFT = _request_histogram(
    "request_ttft_seconds",
    "From the first sight of a request to the first byte of its answer.",
    _ANSWER_SECONDS,
    (*REQUEST, "streaming"),
)
TPOT = _request_histogram(
    "request_streaming_tpot_seconds",
    "Time per token of streamed answers after the first: (duration - TTFT) / (tokens - 1).",
    (0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 2),
)
REJECTED = Family("requests_rejected", "Requests that the picker answered itself.", ("code", "reason"))
FINISHED = Family("requests_finished", "Routed requests that ended, by how.", ("cause",))

# --- scheduling -------------------------------------------------------------------------------------------------------

SCHEDULER_SECONDS = Family("scheduler_e2e_duration_seconds", "Duration of scheduling.", (), "histogram", _SCHEDULER_SECONDS)
SCHEDULER_ATTEMPTS = Family(
    "scheduler_attempts", "Attempts to schedule.", ("status", "target_model_name", "endpoint_name", "namespace", "port")
)
PLUGIN_SECONDS = Family("plugin_duration_seconds", "Duration of a plugin's verb.", PLUGIN, "histogram", _SCHEDULER_SECONDS)
PLUGIN_FAILURES = Family("plugin_failures", "Plugins that raised or gave nonsense and were passed over.", PLUGIN)
PROCESSING_SECONDS = Family(
    "request_processing_duration_seconds",
    "How long the picker held requests, waiting for admission included.",
    (),
    "histogram",
    (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
INTERNAL_FAULTS = Family(
    "internal_faults", "Faults of the picker's own code; the request was routed by least in-flight.", ("stage",)
)
PREFIX_SIZE = Family("prefix_indexer_size", "(block, endpoint) pairs in the prefix index.", _PREFIX, "gauge")
PREFIX_RATIO = Family(
    "prefix_indexer_hit_ratio",
    "Share of the prompt whose prefix the chosen endpoint held.",
    _PREFIX,
    "histogram",
    (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1),
)
PREFIX_BYTES = Family(
    "prefix_indexer_hit_bytes",
    "Length of the prefix that the chosen endpoint held, at 4 bytes a token.",
    _PREFIX,
    "histogram",
    (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536),
)

# --- the picker itself ------------------------------------------------------------------------------------------------

STREAMS_OPEN = Family("extproc_streams_inflight", "ext_proc streams open now.", (), "gauge")
STREAMS = Family("extproc_streams", "ext_proc streams that ended, by gRPC status.", ("code",))
STREAM_SECONDS = Family(
    "extproc_stream_duration_seconds",
    "How long ext_proc streams were open.",
    (),
    "histogram",
    (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600),
)
POLL_ERRORS = Family("datalayer_poll_errors", "Scrapes that failed.", ("source_type",))
SCRAPE_FAILURES = Family("scrape_failures", "Scrapes that failed, by cause.", ("cause",))
SCRAPE_SECONDS = Family(
    "scrape_duration_seconds",
    "Duration of scrapes.",
    (),
    "histogram",
    (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)
RELOADS = Family("config_reload", "Watched files that were read again.", ("what", "result"))
INFO = Family("info", "The build of the picker.", ("commit", "build_ref"), "info")

# --- the pool ---------------------------------------------------------------------------------------------------------

READY = Family("ready_endpoints", "Endpoints that requests are routed to.", ("name",), "gauge")
#: Column → mean, standard deviation.
POOL = {
    "kv_usage": (
        Family("average_kv_cache_utilization", "Mean use of the KV cache over the ready endpoints.", ("name",), "gauge"),
        Family("std_dev_kv_cache_utilization", "Standard deviation of the use of the KV cache.", ("name",), "gauge"),
    ),
    "waiting": (
        Family("average_queue_size", "Mean number of requests queued at a ready endpoint.", ("name",), "gauge"),
        Family("std_dev_queue_size", "Standard deviation of the requests queued.", ("name",), "gauge"),
    ),
    "running": (
        Family("average_running_requests", "Mean number of requests running at a ready endpoint.", ("name",), "gauge"),
        Family("std_dev_running_requests", "Standard deviation of the requests running.", ("name",), "gauge"),
    ),
}
QUEUE_SIZE = Family("per_endpoint_queue_size", "Requests queued at the endpoint; absent while unknown.", ENDPOINT, "gauge")
SCRAPE_AGE = Family("scrape_age_seconds", "Time since the last good scrape; absent before the first.", ENDPOINT, "gauge")
_LOAD = ("endpoint_name", "namespace", "producer_name")
INFLIGHT_REQUESTS = Family("inflight_requests", "Requests of this picker in flight at the endpoint.", _LOAD, "gauge")
INFLIGHT_TOKENS = Family("inflight_tokens", "Uncached prompt tokens of this picker that wait at the endpoint.", _LOAD, "gauge")
