"""The metrics of the model-server protocol (gateway-api-inference-extension, proposal 003).

Engines export them beside ours, so that dashboards and endpoint pickers made for vLLM work
unchanged: spelling, units and labels are vLLM's.
"""

from __future__ import annotations

from lite_llm.telemetry.kinds import (
    COUNT_BUCKETS,
    REQUEST_BUCKETS,
    TOKEN_BUCKETS,
    Counter,
    Gauge,
    Histogram,
    Label,
    Metric,
    Program,
    declared_in,
)

_AGENT = frozenset({Program.AGENT})
_ENGINE = (Label("model_name"), Label("engine"))


def _vllm(name: str, text: str, buckets: tuple[float, ...] = REQUEST_BUCKETS) -> Histogram:
    unit = "seconds" if name.endswith("_seconds") else ""
    return Histogram(f"vllm:{name}", text, _AGENT, _ENGINE, unit, buckets)


NUM_REQUESTS_RUNNING = Gauge(
    "vllm:num_requests_running", "Requests in the running batch.", _AGENT, _ENGINE
)
NUM_REQUESTS_WAITING = Gauge(
    "vllm:num_requests_waiting", "Requests that wait to enter the batch.", _AGENT, _ENGINE
)
KV_CACHE_USAGE = Gauge(
    "vllm:kv_cache_usage_perc", "Used share of KV cache blocks, 0 to 1.", _AGENT, _ENGINE
)
CACHE_CONFIG_INFO = Gauge(
    "vllm:cache_config_info",
    "Always 1; labels tell the KV cache's geometry.",
    _AGENT,
    (*_ENGINE, Label("block_size"), Label("num_gpu_blocks")),
)
PREFIX_CACHE_QUERIES = Counter(
    "vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache.", _AGENT, _ENGINE
)
PREFIX_CACHE_HITS = Counter(
    "vllm:prefix_cache_hits_total", "Tokens found in the prefix cache.", _AGENT, _ENGINE
)
PREEMPTIONS = Counter(
    "vllm:num_preemptions_total", "Sequences set back to free KV cache.", _AGENT, _ENGINE
)
PROMPT_TOKENS = Counter("vllm:prompt_tokens_total", "Prompt tokens processed.", _AGENT, _ENGINE)
GENERATION_TOKENS = Counter("vllm:generation_tokens_total", "Tokens generated.", _AGENT, _ENGINE)
REQUEST_SUCCESS = Counter(
    "vllm:request_success_total",
    "Finished requests, by what ended them.",
    _AGENT,
    (*_ENGINE, Label("finished_reason", ("stop", "length", "abort", "error"))),
)
TIME_TO_FIRST_TOKEN = _vllm(
    "time_to_first_token_seconds", "Time from arrival in the engine to the first token."
)
INTER_TOKEN_LATENCY = _vllm(
    "inter_token_latency_seconds", "Time between tokens of one sequence.", TOKEN_BUCKETS
)
E2E_REQUEST_LATENCY = _vllm(
    "e2e_request_latency_seconds", "Time from arrival in the engine to the last token."
)
REQUEST_QUEUE_TIME = _vllm("request_queue_time_seconds", "Time spent waiting.")
REQUEST_PREFILL_TIME = _vllm("request_prefill_time_seconds", "Time spent in prefill.")
REQUEST_DECODE_TIME = _vllm("request_decode_time_seconds", "Time spent in decode.")
REQUEST_INFERENCE_TIME = _vllm("request_inference_time_seconds", "Time spent in the batch.")
REQUEST_PROMPT_TOKENS = _vllm("request_prompt_tokens", "Prompt tokens per request.", COUNT_BUCKETS)
REQUEST_GENERATION_TOKENS = _vllm(
    "request_generation_tokens", "Generated tokens per request.", COUNT_BUCKETS
)
ITERATION_TOKENS = _vllm("iteration_tokens_total", "Tokens per engine step.", COUNT_BUCKETS)

METRICS: tuple[Metric, ...] = declared_in(vars())
"""Every metric above."""
