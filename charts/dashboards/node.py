"""One node: its tiers, what moves between them, and its workers."""

from __future__ import annotations

from panels import Board, Panel, Query, Variable, quiet

_HERE = 'job=~".*agent", node=~"$node"'
_RATE = "[$__rate_interval]"


def _bytes(metric: str, by: str, legend: str) -> tuple[Query, ...]:
    return (Query(quiet(f"sum by ({by}) (rate({metric}{{{_HERE}}}{_RATE}))"), legend),)


NODE = Board(
    name="node",
    title="Lite LLM / Node",
    told="Tiers, bandwidth, transitions and workers of one node, or of several.",
    variables=(Variable("node", "Node", "label_values(lite_llm_tier_bytes, node)"),),
    rows=(
        (
            "Tiers",
            (
                Panel(
                    "Used",
                    "Of each medium's budget.",
                    (
                        Query(
                            'sum by (node, tier) (lite_llm_tier_bytes{node=~"$node", state="used"})',
                            "{{node}} {{tier}}",
                        ),
                    ),
                    "bytes",
                ),
                Panel(
                    "Budget",
                    "What the agent may take of each medium.",
                    (
                        Query(
                            'sum by (node, tier) (lite_llm_tier_bytes{node=~"$node", state="capacity"})',
                            "{{node}} {{tier}}",
                        ),
                    ),
                    "bytes",
                ),
                Panel(
                    "Promised",
                    "Reserved for loads under way, and pinned.",
                    (
                        Query(
                            'sum by (node, tier, state) (lite_llm_tier_bytes{node=~"$node", state=~"reserved|pinned"})',
                            "{{node}} {{tier}} {{state}}",
                        ),
                    ),
                    "bytes",
                ),
            ),
        ),
        (
            "What moves",
            (
                Panel(
                    "To a nearer medium",
                    "Bytes a second of weights.",
                    _bytes(
                        "lite_llm_tier_load_bytes_total",
                        "source, target",
                        "{{source}} to {{target}}",
                    ),
                    "Bps",
                ),
                Panel(
                    "Phases of loads",
                    "Bytes a second that each phase was done with.",
                    _bytes("lite_llm_load_phase_bytes_total", "phase", "{{phase}}"),
                    "Bps",
                ),
                Panel(
                    "Speed while busy",
                    "Bytes of a phase over the time that it was busy: what the wire gives.",
                    (
                        Query(
                            quiet(
                                f"sum by (phase) (rate(lite_llm_load_phase_bytes_total{{{_HERE}}}{_RATE}))"
                                f" / (sum by (phase) (rate(lite_llm_load_phase_seconds_total{{{_HERE}}}{_RATE})) > 0)"
                            ),
                            "{{phase}}",
                        ),
                    ),
                    "Bps",
                ),
                Panel(
                    "Transitions",
                    "Of weights between media, by cause.",
                    _bytes("lite_llm_tier_transitions_total", "reason", "{{reason}}"),
                    kind="stack",
                ),
                Panel(
                    "Evictions",
                    "By medium and cause.",
                    _bytes("lite_llm_evictions_total", "tier, reason", "{{tier}} {{reason}}"),
                    kind="stack",
                ),
                Panel(
                    "Downloads",
                    "Bytes a second over the network, by where they came from.",
                    _bytes("lite_llm_download_bytes_total", "source", "{{source}}"),
                    "Bps",
                    kind="stack",
                ),
            ),
        ),
        (
            "Workers",
            (
                Panel(
                    "Requests",
                    "In the running batches, and waiting.",
                    (
                        Query(f"sum(vllm:num_requests_running{{{_HERE}}})", "running"),
                        Query(f"sum(vllm:num_requests_waiting{{{_HERE}}})", "waiting"),
                    ),
                ),
                Panel(
                    "Tokens",
                    "Computed a second.",
                    (
                        Query(f"sum(rate(vllm:prompt_tokens_total{{{_HERE}}}{_RATE}))", "prompt"),
                        Query(
                            f"sum(rate(vllm:generation_tokens_total{{{_HERE}}}{_RATE}))",
                            "completion",
                        ),
                    ),
                ),
                Panel(
                    "Key-value cache",
                    "Used share, by model.",
                    (
                        Query(
                            f"max by (model_name) (vllm:kv_cache_usage_perc{{{_HERE}}})",
                            "{{model_name}}",
                        ),
                    ),
                    "percentunit",
                ),
                Panel(
                    "The daemon's processor",
                    "Cores; workers are processes of their own.",
                    (
                        Query(
                            f"sum by (node) (rate(process_cpu_seconds_total{{{_HERE}}}{_RATE}))",
                            "{{node}}",
                        ),
                    ),
                ),
                Panel(
                    "The daemon's memory",
                    "Resident; shared weights are counted in the tiers.",
                    (
                        Query(
                            f"sum by (node) (process_resident_memory_bytes{{{_HERE}}})", "{{node}}"
                        ),
                    ),
                    "bytes",
                ),
                Panel(
                    "Failed checks",
                    "Bytes against checksums, signatures against keys.",
                    _bytes("lite_llm_verify_failures_total", "check", "{{check}}"),
                ),
            ),
        ),
    ),
)
