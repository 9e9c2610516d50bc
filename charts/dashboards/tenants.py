"""Who uses how much, what that costs, and who was refused."""

from __future__ import annotations

from panels import Board, Panel, Query, Variable, quiet

_TENANT = 'tenant=~"$tenant"'
_RATE = "[$__rate_interval]"

TENANTS = Board(
    name="tenants",
    title="Lite LLM / Tenants and cost",
    told="Tokens, cost and refusals by tenant. Prices are what you enter above.",
    variables=(
        Variable("tenant", "Tenant", "label_values(lite_llm_tokens_total, tenant)"),
        Variable("prompt_price", "Price of a million prompt tokens", text="0.5"),
        Variable("completion_price", "Price of a million completion tokens", text="1.5"),
        Variable("agent_price", "Price of an agent's hour", text="2"),
    ),
    rows=(
        (
            "Use",
            (
                Panel(
                    "Completion tokens",
                    "A second, by tenant.",
                    (
                        Query(
                            f'sum by (tenant) (rate(lite_llm_tokens_total{{{_TENANT}, type="completion"}}{_RATE}))',
                            "{{tenant}}",
                        ),
                    ),
                    kind="stack",
                ),
                Panel(
                    "Prompt tokens",
                    "A second, by tenant; those found in the prefix cache are not among them.",
                    (
                        Query(
                            f'sum by (tenant) (rate(lite_llm_tokens_total{{{_TENANT}, type="prompt"}}{_RATE}))',
                            "{{tenant}}",
                        ),
                    ),
                    kind="stack",
                ),
                Panel(
                    "Prompt tokens from the cache",
                    "Share of all prompt tokens.",
                    (
                        Query(
                            f'sum by (tenant) (rate(lite_llm_tokens_total{{{_TENANT}, type="cached"}}{_RATE}))'
                            f' / (sum by (tenant) (rate(lite_llm_tokens_total{{{_TENANT}, type=~"cached|prompt"}}{_RATE})) > 0)',
                            "{{tenant}}",
                        ),
                    ),
                    "percentunit",
                ),
                Panel(
                    "Refused",
                    "A second, by tenant and by the limit that was reached.",
                    (
                        Query(
                            quiet(
                                f"sum by (tenant, limit) (rate(lite_llm_quota_rejected_total{{{_TENANT}}}{_RATE}))"
                            ),
                            "{{tenant}} {{limit}}",
                        ),
                    ),
                    "reqps",
                ),
            ),
        ),
        (
            "Cost",
            (
                Panel(
                    "Bill of the last hour",
                    "Tokens times prices.",
                    (
                        Query(
                            f'sum by (tenant) (increase(lite_llm_tokens_total{{{_TENANT}, type="prompt"}}[1h])) * $prompt_price / 1e6'
                            f' + on (tenant) sum by (tenant) (increase(lite_llm_tokens_total{{{_TENANT}, type="completion"}}[1h])) * $completion_price / 1e6',
                            "{{tenant}}",
                        ),
                    ),
                    "currencyUSD",
                    kind="stack",
                ),
                Panel(
                    "Cost of the agents",
                    "An hour, whether used or not.",
                    (Query('count(lite_llm_build_info{job=~".*agent"}) * $agent_price'),),
                    "currencyUSD",
                ),
                Panel(
                    "Cost of a million tokens",
                    "Of the agents, over the tokens they make.",
                    (
                        Query(
                            'count(lite_llm_build_info{job=~".*agent"}) * $agent_price'
                            f' / (sum(rate(lite_llm_tokens_total{{type="completion"}}{_RATE})) * 3600 / 1e6 > 0)'
                        ),
                    ),
                    "currencyUSD",
                ),
            ),
        ),
    ),
)
