"""One model: its requests, its replicas, its cache, its experts."""

from __future__ import annotations

from panels import Board, Panel, Query, Variable, quantiles, quiet

_OURS = 'model=~"$model"'
_ENGINE = 'model_name=~"$model"'
_RATE = "[$__rate_interval]"

MODEL = Board(
    name="model",
    title="Lite LLM / Model",
    told="Requests, replicas, key-value cache and experts of one model, or of several.",
    variables=(
        Variable("model", "Model", "label_values(lite_llm_request_duration_seconds_count, model)"),
    ),
    rows=(
        (
            "Requests",
            (
                Panel(
                    "Answers",
                    "A second, by HTTP status.",
                    (
                        Query(
                            f"sum by (code) (rate(lite_llm_request_duration_seconds_count{{{_OURS}}}{_RATE}))",
                            "{{code}}",
                        ),
                    ),
                    "reqps",
                    kind="stack",
                ),
                Panel(
                    "Time to first token",
                    "Holding included.",
                    quantiles("lite_llm_time_to_first_token_seconds", _OURS),
                    "s",
                ),
                Panel(
                    "Time between tokens",
                    "As they leave the gateway.",
                    quantiles("lite_llm_inter_token_latency_seconds", _OURS),
                    "s",
                ),
                Panel(
                    "Replicas",
                    "Wanted, and there by state.",
                    (
                        Query(
                            f"sum(max by (model) (lite_llm_replicas_desired{{{_OURS}}}))", "wanted"
                        ),
                        Query(
                            f"sum by (state) (max by (model, state) (lite_llm_replicas{{{_OURS}}}))",
                            "{{state}}",
                        ),
                    ),
                ),
                Panel(
                    "Held",
                    "Requests that wait for it to load.",
                    (Query(quiet(f"sum(lite_llm_held_requests{{{_OURS}}})")),),
                ),
                Panel(
                    "Start by phase, mean",
                    "Of its cold starts.",
                    (
                        Query(
                            f"sum by (phase) (rate(lite_llm_cold_start_seconds_sum{{{_OURS}}}{_RATE}))"
                            f" / sum by (phase) (rate(lite_llm_cold_start_seconds_count{{{_OURS}}}{_RATE}))",
                            "{{phase}}",
                        ),
                    ),
                    "s",
                ),
            ),
        ),
        (
            "Engine",
            (
                Panel(
                    "Batch",
                    "Sequences that run and that wait.",
                    (
                        Query(f"sum(vllm:num_requests_running{{{_ENGINE}}})", "running"),
                        Query(f"sum(vllm:num_requests_waiting{{{_ENGINE}}})", "waiting"),
                    ),
                ),
                Panel(
                    "Wait in the engine",
                    "Before the first step.",
                    quantiles("vllm:request_queue_time_seconds", _ENGINE),
                    "s",
                ),
                Panel(
                    "Tokens a step",
                    "Mean size of a step.",
                    (
                        Query(
                            f"sum(rate(vllm:iteration_tokens_total_sum{{{_ENGINE}}}{_RATE}))"
                            f" / sum(rate(vllm:iteration_tokens_total_count{{{_ENGINE}}}{_RATE}))"
                        ),
                    ),
                ),
                Panel(
                    "Prefix cache",
                    "Share of prompt tokens that were found.",
                    (
                        Query(
                            f"sum(rate(vllm:prefix_cache_hits_total{{{_ENGINE}}}{_RATE}))"
                            f" / sum(rate(vllm:prefix_cache_queries_total{{{_ENGINE}}}{_RATE}))"
                        ),
                    ),
                    "percentunit",
                ),
                Panel(
                    "Key-value cache in use",
                    "And sequences set back for want of it, a second.",
                    (
                        Query(f"max(vllm:kv_cache_usage_perc{{{_ENGINE}}})", "used share"),
                        Query(
                            f"sum(rate(vllm:num_preemptions_total{{{_ENGINE}}}{_RATE}))", "set back"
                        ),
                    ),
                ),
                Panel(
                    "Ends",
                    "Of requests, by what ended them.",
                    (
                        Query(
                            f"sum by (finished_reason) (rate(vllm:request_success_total{{{_ENGINE}}}{_RATE}))",
                            "{{finished_reason}}",
                        ),
                    ),
                    kind="stack",
                ),
            ),
        ),
        (
            "Experts",
            (
                Panel(
                    "Found in hot slots",
                    "Share of the experts that layers asked for.",
                    (
                        Query(
                            f'sum by (model) (rate(lite_llm_expert_demands_total{{{_OURS}, outcome="hit"}}{_RATE}))'
                            f" / (sum by (model) (rate(lite_llm_expert_demands_total{{{_OURS}}}{_RATE})) > 0)",
                            "{{model}}",
                        ),
                    ),
                    "percentunit",
                ),
                Panel(
                    "Missing lately",
                    "Above one half the pool thrashes: give it more memory, or requests fewer tiers.",
                    (
                        Query(
                            f"max by (model) (lite_llm_expert_miss_share{{{_OURS}}})", "{{model}}"
                        ),
                    ),
                    "percentunit",
                ),
                Panel(
                    "Brought",
                    "Bytes a second into hot slots, by where they lay.",
                    (
                        Query(
                            f"sum by (source) (rate(lite_llm_expert_fetched_bytes_total{{{_OURS}}}{_RATE}))",
                            "{{source}}",
                        ),
                    ),
                    "Bps",
                    kind="stack",
                ),
                Panel(
                    "Fetched early",
                    "A second, by what came of it.",
                    (
                        Query(
                            f"sum by (outcome) (rate(lite_llm_expert_prefetches_total{{{_OURS}}}{_RATE}))",
                            "{{outcome}}",
                        ),
                    ),
                    kind="stack",
                ),
                Panel(
                    "Hot slots",
                    "Used and pinned are parts of capacity.",
                    (Query(f"sum by (state) (lite_llm_expert_slots{{{_OURS}}})", "{{state}}"),),
                ),
                Panel(
                    "Starved",
                    "Experts that no token chose lately.",
                    (Query(f"max by (model) (lite_llm_experts_starved{{{_OURS}}})", "{{model}}"),),
                ),
            ),
        ),
    ),
)
