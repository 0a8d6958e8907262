"""The reference's plugin types, by name: what is known about those that this build lacks.

An unknown type in a configuration is a typing error, a type of the reference that is not built here is not: the message
differs. Types that only flow control uses are let through with a warning, as the queues are not built yet either.
"""

from __future__ import annotations

#: Names of older releases, and what they are called since.
ALIASES = {
    "prefix-cache": "prefix-cache-scorer",
    "max-score": "max-score-picker",
    "single-profile": "single-profile-handler",
}

#: Used by the flow control section alone.
FLOW_CONTROL = frozenset({
    "utilization-detector", "concurrency-detector",
    "global-strict-fairness-policy", "round-robin-fairness-policy", "program-aware-fairness",
    "fcfs-ordering-policy", "edf-ordering-policy", "slo-deadline-ordering-policy",
    "static-usage-limit-policy", "priority-holdback-policy", "soft-reflective-ceiling-policy",
    "sheddable-eviction-filter", "priority-then-time-eviction-order-policy",
})  # fmt: skip

#: Parts of the data layer: they have parameters and no verb, the scraper reads them.
SOURCES = frozenset({"metrics-data-source"})
EXTRACTORS = frozenset({"core-metrics-extractor"})

#: Every type of the reference, whether built here or not.
REFERENCE = FLOW_CONTROL | SOURCES | EXTRACTORS | {
    # filters
    "label-selector-filter", "by-label", "by-label-selector", "decode-filter", "prefill-filter", "encode-filter",
    "session-affinity-filter", "topology-affinity-filter", "utilization-filter", "endpoint-attribute-filter",
    "prefix-cache-affinity-filter", "slo-headroom-tier-filter", "header-based-testing-filter",
    "multicluster-session-affinity-filter",
    # scorers
    "queue-scorer", "running-requests-size-scorer", "kv-cache-utilization-scorer", "load-aware-scorer", "lora-affinity-scorer",
    "prefix-cache-scorer", "precise-prefix-cache-scorer", "no-hit-lru-scorer", "active-request-scorer", "token-load-scorer",
    "session-affinity-scorer", "context-length-aware", "mm-embeddings-cache-scorer", "latency-scorer",
    "endpoint-attribute-scorer", "header-label-affinity-scorer", "topology-affinity-scorer",
    "multicluster-kv-cache-utilization-scorer", "multicluster-queue-scorer", "multicluster-prefix-cache-scorer",
    # pickers, profile handlers, deciders
    "max-score-picker", "random-picker", "weighted-random-picker",
    "single-profile-handler", "disagg-profile-handler", "pd-profile-handler", "disagg-headers-handler",
    "prefill-header-handler", "data-parallel-profile-handler", "header-profile-handler",
    "prefix-based-pd-decider", "always-disagg-pd-decider", "always-disagg-multimodal-decider",
    # producers, admitters, reporters
    "token-producer", "tokenizer", "approx-prefix-cache-producer", "multicluster-approx-prefix-cache-producer",
    "precise-prefix-cache-producer", "burst-prefix-cache-producer", "inflight-load-producer", "predicted-latency-producer",
    "session-id-producer", "mm-embeddings-cache-producer", "p2p-source-producer", "agent-identity",
    "request-attribute-reporter", "disaggregatedset-rollout-screener", "latency-slo-admitter", "probabilistic-admitter",
    "destination-endpoint-served-verifier",
    # parsers
    "openai-parser", "anthropic-parser", "vllmhttp-parser", "sglanghttp-parser", "vllmgrpc-parser", "vertexai-parser",
    "passthrough-parser",
    # data layer and discovery
    "models-data-source", "models-data-extractor", "dcgm-data-source", "dcgm-extractor", "topology-extractor",
    "k8s-notification-source", "endpoint-notification-source", "multicluster-metrics-data-source",
    "multicluster-metrics-extractor", "file-discovery", "multicluster-file-discovery",
}  # fmt: skip
