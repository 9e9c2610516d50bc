"""The fleet at a glance: what serves, what waits, and how starts go."""

from __future__ import annotations

from panels import DOORS, Board, Panel, Query, quantiles, quiet

_STATES = "max by (model, state) (lite_llm_replicas)"
_SERVING = 'max by (model, state) (lite_llm_replicas{state=~"active|expanding"})'
_COLD = "lite_llm_cold_start_seconds"

FLEET = Board(
    name="fleet",
    title="Lite LLM / Fleet",
    told="Models by state, tiers, cold starts by path and phase, held requests, latency.",
    rows=(
        (
            "Now",
            (
                Panel(
                    "Agents",
                    "That Prometheus reaches.",
                    (Query('count(lite_llm_build_info{job=~".*agent"})'),),
                    kind="number",
                    span=4,
                ),
                Panel(
                    "Models that serve",
                    "With an agent that takes requests.",
                    (Query(quiet(f"count(count by (model) ({_SERVING} > 0))")),),
                    kind="number",
                    span=4,
                ),
                Panel(
                    "Held requests",
                    "Waiting for their model to load.",
                    (Query(quiet("sum(lite_llm_held_requests)")),),
                    kind="number",
                    span=4,
                ),
                Panel(
                    "Requests a second",
                    "Answered, whatever the answer.",
                    (
                        Query(
                            "sum(rate(lite_llm_request_duration_seconds_count[$__rate_interval]))"
                        ),
                    ),
                    "reqps",
                    kind="number",
                    span=4,
                ),
                Panel(
                    "Tokens a second",
                    "Completion tokens.",
                    (
                        Query(
                            'sum(rate(lite_llm_tokens_total{type="completion"}[$__rate_interval]))'
                        ),
                    ),
                    kind="number",
                    span=4,
                ),
                Panel(
                    "Failed requests",
                    "Share of answers with status 5xx.",
                    (
                        Query(
                            quiet(
                                'sum(rate(lite_llm_request_duration_seconds_count{code=~"5.."}[$__rate_interval]))'
                                " / sum(rate(lite_llm_request_duration_seconds_count[$__rate_interval]))"
                            )
                        ),
                    ),
                    "percentunit",
                    kind="number",
                    span=4,
                ),
            ),
        ),
        (
            "Models and tiers",
            (
                Panel(
                    "Models by state",
                    "Agents that hold a model, by its state there.",
                    (Query(f"sum by (state) ({_STATES})", "{{state}}"),),
                    kind="stack",
                ),
                Panel(
                    "Wanted and there",
                    "Agents that should take requests for models, and that do.",
                    (
                        Query("sum(max by (model) (lite_llm_replicas_desired))", "wanted"),
                        Query(quiet(f"sum({_SERVING})"), "there"),
                    ),
                ),
                Panel(
                    "Tiers in use",
                    "Share of each medium's budget, over all agents.",
                    (
                        Query(
                            'sum by (tier) (lite_llm_tier_bytes{state="used"})'
                            ' / (sum by (tier) (lite_llm_tier_bytes{state="capacity"}) > 0)',
                            "{{tier}}",
                        ),
                    ),
                    "percentunit",
                ),
            ),
        ),
        (
            "Cold starts",
            (
                Panel(
                    "Starts by path",
                    "hot from memory, warm from a disk of the node, cold from further away.",
                    (
                        Query(
                            f"sum by (path, outcome) (increase(lite_llm_cold_starts_total{{{DOORS}}}[$__rate_interval]))",
                            "{{path}} {{outcome}}",
                        ),
                    ),
                    kind="stack",
                ),
                Panel(
                    "Time by phase, p95",
                    "Where a start's time goes.",
                    (
                        Query(
                            f"histogram_quantile(0.95, sum by (le, phase) (rate({_COLD}_bucket{{{DOORS}}}[$__rate_interval])))",
                            "{{phase}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Time by path, mean of all phases",
                    "From the request that finds the model absent to its first token.",
                    (
                        Query(
                            f"sum by (path) (rate({_COLD}_sum{{{DOORS}}}[$__rate_interval]))"
                            f' / sum by (path) (rate({_COLD}_count{{{DOORS},phase="init"}}[$__rate_interval]))',
                            "{{path}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Held requests",
                    "By model.",
                    (Query(quiet("sum by (model) (lite_llm_held_requests)"), "{{model}}"),),
                    kind="stack",
                ),
                Panel(
                    "Held for",
                    "Whether served afterwards or not.",
                    quantiles("lite_llm_held_wait_seconds"),
                    "s",
                ),
                Panel(
                    "Refused instead of held",
                    "By the bound that was reached.",
                    (
                        Query(
                            quiet(
                                "sum by (reason) (rate(lite_llm_held_rejected_total[$__rate_interval]))"
                            ),
                            "{{reason}}",
                        ),
                    ),
                    "reqps",
                ),
            ),
        ),
        (
            "Latency",
            (
                Panel(
                    "Time to first token",
                    "Holding included.",
                    quantiles("lite_llm_time_to_first_token_seconds"),
                    "s",
                ),
                Panel(
                    "Time between tokens",
                    "As they leave the gateway.",
                    quantiles("lite_llm_inter_token_latency_seconds"),
                    "s",
                ),
                Panel(
                    "What decided the choice of an agent",
                    "The term of the score that set the best agent apart.",
                    (
                        Query(
                            "sum by (reason) (rate(lite_llm_router_decisions_total[$__rate_interval]))",
                            "{{reason}}",
                        ),
                    ),
                    "reqps",
                    kind="stack",
                ),
            ),
        ),
        (
            "Metadata",
            (
                Panel(
                    "Round trips, p99",
                    "To the metadata store, by operation.",
                    (
                        Query(
                            "histogram_quantile(0.99, sum by (le, operation) (rate(lite_llm_metadata_rtt_seconds_bucket[$__rate_interval])))",
                            "{{operation}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Leases held",
                    "One process a role; none for long means that nobody does that work.",
                    (Query("sum by (role) (lite_llm_lease_held)", "{{role}}"),),
                ),
                Panel(
                    "Silence of watches",
                    "Time since each watch last heard from the store; it hears at least its own heartbeats.",
                    (
                        Query(
                            "max by (job, watch) (lite_llm_watch_last_event_age_seconds)",
                            "{{job}} {{watch}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Reconciliations",
                    "Of the operator, p99.",
                    (
                        Query(
                            "histogram_quantile(0.99, sum by (le, controller) (rate(lite_llm_reconcile_duration_seconds_bucket[$__rate_interval])))",
                            "{{controller}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Failed reconciliations",
                    "They are tried again.",
                    (
                        Query(
                            quiet(
                                "sum by (controller) (rate(lite_llm_reconcile_errors_total[$__rate_interval]))"
                            ),
                            "{{controller}}",
                        ),
                    ),
                ),
                Panel(
                    "Objects that wait",
                    "To be reconciled.",
                    (Query("sum(lite_llm_reconcile_waiting)"),),
                ),
            ),
        ),
    ),
)
