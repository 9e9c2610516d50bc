"""The one list of metrics: names, kinds, labels, units and buckets. No values live here.

Ours begin with ``lite_llm_``; those that engines export under vLLM's names are in
:mod:`lite_llm.telemetry.vllm_names`. Durations are in seconds, sizes in bytes.
"""

from __future__ import annotations

from lite_llm.telemetry import vllm_names
from lite_llm.telemetry.kinds import (
    COLD_START_BUCKETS,
    REQUEST_BUCKETS,
    ROUND_TRIP_BUCKETS,
    TOKEN_BUCKETS,
    Counter,
    Gauge,
    Histogram,
    Label,
    Metric,
    Program,
    declared_in,
)

# The same words as contracts.Medium and contracts.ModelState, in lower case.
MEDIA = ("gpu", "dram", "nvme", "sata", "object_store")
STATES = ("init", "warm", "active", "expanding", "frozen", "recovering")

MODEL = Label("model")
NODE = Label("node")
TENANT = Label("tenant")
ROLE = Label("role")
CONTROLLER = Label("controller")
CODE = Label("code")
OPERATION = Label("operation")
TIER = Label("tier", MEDIA)
SOURCE = Label("source", MEDIA)
TARGET = Label("target", MEDIA)
STATE = Label("state", STATES)
PATH = Label("path", ("hot", "warm", "cold"))
PHASE = Label("phase", ("queue", "schedule", "fetch", "read", "to_gpu", "init", "first_token"))
LOAD_PHASE = Label("phase", ("fetch", "read", "verify", "to_gpu"))

_AGENT = frozenset({Program.AGENT})
_ORCHESTRATOR = frozenset({Program.ORCHESTRATOR})
_OPERATOR = frozenset({Program.OPERATOR})
_ALL = frozenset(Program)

BUILD_INFO = Gauge(
    "lite_llm_build_info", "Always 1; labels tell what runs.", _ALL, (Label("version"),)
)

# Cold starts: how long a request waited for its model, and where the time went.
COLD_START_SECONDS = Histogram(
    "lite_llm_cold_start_seconds",
    "Time from a request that finds its model not active to its first token, by phase.",
    _ORCHESTRATOR | _AGENT,
    (MODEL, PATH, PHASE),
    "seconds",
    COLD_START_BUCKETS,
)
COLD_STARTS_TOTAL = Counter(
    "lite_llm_cold_starts_total",
    "Starts of models that were not active when a request came.",
    _ORCHESTRATOR | _AGENT,
    (PATH, Label("outcome", ("ok", "failed", "cancelled"))),
)

# Requests held at the gateway while their model loads.
HELD_REQUESTS = Gauge(
    "lite_llm_held_requests", "Requests held for a model that loads.", _ORCHESTRATOR, (MODEL,)
)
HELD_BYTES = Gauge(
    "lite_llm_held_bytes", "Memory taken by held requests.", _ORCHESTRATOR, unit="bytes"
)
HELD_WAIT_SECONDS = Histogram(
    "lite_llm_held_wait_seconds",
    "How long requests were held, whether they were served afterwards or not.",
    _ORCHESTRATOR,
    (MODEL,),
    "seconds",
    COLD_START_BUCKETS,
)
HELD_REJECTED_TOTAL = Counter(
    "lite_llm_held_rejected_total",
    "Requests refused instead of held, or given up while held.",
    _ORCHESTRATOR,
    (Label("reason", ("count", "bytes", "time", "load_failed", "shutdown")),),
)

# Requests as clients see them.
REQUEST_DURATION_SECONDS = Histogram(
    "lite_llm_request_duration_seconds",
    "Time from a request's first byte to its answer's last, by HTTP status.",
    _ORCHESTRATOR,
    (MODEL, CODE),
    "seconds",
    REQUEST_BUCKETS,
)
TIME_TO_FIRST_TOKEN_SECONDS = Histogram(
    "lite_llm_time_to_first_token_seconds",
    "Time from a request's arrival to its first token, holding included.",
    _ORCHESTRATOR,
    (MODEL,),
    "seconds",
    REQUEST_BUCKETS,
)
INTER_TOKEN_LATENCY_SECONDS = Histogram(
    "lite_llm_inter_token_latency_seconds",
    "Time between tokens of one sequence, as they leave the gateway.",
    _ORCHESTRATOR,
    (MODEL,),
    "seconds",
    TOKEN_BUCKETS,
)
TOKENS_TOTAL = Counter(
    "lite_llm_tokens_total",
    "Tokens by type; a prompt token found in the prefix cache counts as cached, not as prompt.",
    _ORCHESTRATOR,
    (Label("type", ("prompt", "cached", "completion")), TENANT),
)
QUOTA_REJECTED_TOTAL = Counter(
    "lite_llm_quota_rejected_total",
    "Requests refused because a tenant's limit was reached.",
    _ORCHESTRATOR,
    (TENANT, Label("limit", ("rate", "concurrency", "memory", "cost"))),
)
ROUTER_DECISIONS_TOTAL = Counter(
    "lite_llm_router_decisions_total",
    "Choices of an agent, by the term of the score that decided.",
    _ORCHESTRATOR,
    (Label("reason", ("cache_level", "kv_hit_rate", "queue_length", "load", "tie", "no_agent")),),
)
REPLICAS = Gauge(
    "lite_llm_replicas", "Agents that hold a model, by its state there.", _ORCHESTRATOR,
    (MODEL, STATE),
)  # fmt: skip
REPLICAS_DESIRED = Gauge(
    "lite_llm_replicas_desired", "Agents that should hold a model.", _ORCHESTRATOR, (MODEL,)
)

# Tiers of an agent: what lies where, and what moves.
TIER_BYTES = Gauge(
    "lite_llm_tier_bytes",
    "Bytes of a medium by use; pinned and reserved are parts of used.",
    _AGENT,
    (NODE, TIER, Label("state", ("capacity", "used", "reserved", "pinned"))),
    "bytes",
)
TIER_HITS_TOTAL = Counter(
    "lite_llm_tier_hits_total", "Requests for weights, by the medium they were found in.", _AGENT,
    (TIER,),
)  # fmt: skip
TIER_TRANSITIONS_TOTAL = Counter(
    "lite_llm_tier_transitions_total",
    "Moves of weights between media, by cause.",
    _AGENT,
    (
        SOURCE,
        TARGET,
        Label("reason", ("demand", "prefetch", "promotion", "demotion", "unload", "drain")),
    ),
)
TIER_LOAD_BYTES_TOTAL = Counter(
    "lite_llm_tier_load_bytes_total", "Bytes moved to a nearer medium.", _AGENT, (SOURCE, TARGET),
    "bytes",
)  # fmt: skip
TIER_LOAD_SECONDS = Histogram(
    "lite_llm_tier_load_seconds",
    "Duration of one move to a nearer medium.",
    _AGENT,
    (SOURCE, TARGET),
    "seconds",
    COLD_START_BUCKETS,
)
LOAD_PHASE_BYTES_TOTAL = Counter(
    "lite_llm_load_phase_bytes_total", "Bytes of weights that a phase of loads was done with.",
    _AGENT, (LOAD_PHASE,), "bytes",
)  # fmt: skip
LOAD_PHASE_SECONDS_TOTAL = Counter(
    "lite_llm_load_phase_seconds_total",
    "Time that a phase of loads was busy, summed over threads and connections.",
    _AGENT,
    (LOAD_PHASE,),
    "seconds",
)
EVICTIONS_TOTAL = Counter(
    "lite_llm_evictions_total",
    "Weights dropped from a medium to make room, or for another cause.",
    _AGENT,
    (TIER, Label("reason", ("capacity", "idle", "unload", "corrupt"))),
)
DOWNLOAD_BYTES_TOTAL = Counter(
    "lite_llm_download_bytes_total",
    "Bytes fetched over the network, by where they came from.",
    _AGENT | _ORCHESTRATOR,
    (Label("source", ("peer", "mirror", "origin")),),
    "bytes",
)
VERIFY_FAILURES_TOTAL = Counter(
    "lite_llm_verify_failures_total",
    "Checks of checkpoints that failed: bytes against checksum, or signature against key.",
    _AGENT | _ORCHESTRATOR,
    (Label("check", ("checksum", "signature")),),
)

# Experts that are fetched as routers ask for them.
EXPERT_DEMANDS_TOTAL = Counter(
    "lite_llm_expert_demands_total",
    "Experts that layers asked for, by what was found; passed: there was no slot to keep it in.",
    _AGENT,
    (MODEL, Label("outcome", ("hit", "loaded", "passed"))),
)
EXPERT_PREFETCHES_TOTAL = Counter(
    "lite_llm_expert_prefetches_total", "Experts fetched early, by what came of it.", _AGENT,
    (MODEL, Label("outcome", ("used", "wasted"))),
)  # fmt: skip
EXPERT_WASTED_BYTES_TOTAL = Counter(
    "lite_llm_expert_wasted_bytes_total", "Bytes of experts fetched early in vain.", _AGENT,
    (MODEL,), "bytes",
)  # fmt: skip
EXPERT_FETCHED_BYTES_TOTAL = Counter(
    "lite_llm_expert_fetched_bytes_total", "Bytes brought into hot slots, by where they lay.",
    _AGENT, (MODEL, SOURCE), "bytes",
)  # fmt: skip
EXPERT_FETCH_SECONDS_TOTAL = Counter(
    "lite_llm_expert_fetch_seconds_total", "Time of the threads that brought them.", _AGENT,
    (MODEL, SOURCE), "seconds",
)  # fmt: skip
EXPERT_SLOTS = Gauge(
    "lite_llm_expert_slots", "Hot slots; used and pinned are parts of capacity.", _AGENT,
    (MODEL, Label("state", ("capacity", "used", "pinned"))),
)  # fmt: skip
EXPERT_MISS_SHARE = Gauge(
    "lite_llm_expert_miss_share",
    "Share of experts asked for lately that were not there. Above 0.5 the pool thrashes: give it "
    "more memory (hot_bytes), or requests fewer tiers.",
    _AGENT,
    (MODEL,),
)
EXPERTS_STARVED = Gauge(
    "lite_llm_experts_starved",
    "Experts that no token chose lately. If they stay many: draw tiers anew from recorded "
    "activity (lite-llm convert --tiers).",
    _AGENT,
    (MODEL,),
)

# Controllers and the metadata store.
RECONCILE_DURATION_SECONDS = Histogram(
    "lite_llm_reconcile_duration_seconds",
    "Duration of one reconciliation.",
    _OPERATOR,
    (CONTROLLER,),
    "seconds",
    REQUEST_BUCKETS,
)
RECONCILE_ERRORS_TOTAL = Counter(
    "lite_llm_reconcile_errors_total", "Reconciliations that failed.", _OPERATOR, (CONTROLLER,)
)
RECONCILE_WAITING = Gauge(
    "lite_llm_reconcile_waiting", "Objects that wait to be reconciled.", _OPERATOR
)
WATCH_LAST_EVENT_AGE_SECONDS = Gauge(
    "lite_llm_watch_last_event_age_seconds",
    "Time since a watch last heard from the metadata store.",
    _OPERATOR | _ORCHESTRATOR,
    (Label("watch"),),
    "seconds",
)
LEASE_HELD = Gauge(
    "lite_llm_lease_held",
    "1 while this process holds the role's lease, else 0.",
    _OPERATOR | _ORCHESTRATOR,
    (ROLE,),
)
METADATA_RTT_SECONDS = Histogram(
    "lite_llm_metadata_rtt_seconds",
    "Round trip of one operation of the metadata store.",
    _ALL,
    (OPERATION,),
    "seconds",
    ROUND_TRIP_BUCKETS,
)

METRICS: tuple[Metric, ...] = (*declared_in(vars()), *vllm_names.METRICS)
"""Every metric, vLLM's names included."""


def exported_by(program: Program) -> tuple[Metric, ...]:
    """The metrics of one program."""
    return tuple(metric for metric in METRICS if program in metric.programs)
