"""What a TierSet declares of a checkpoint: checked against it, and done by its routers."""

from __future__ import annotations

import structlog

from lite_llm.contracts import Tier, TierSet
from lite_llm.contracts.errors import InvalidSettings
from lite_llm.contracts.manifest import Manifest
from lite_llm.models import DecoderConfig
from lite_llm.models.moe import with_routing_seed, with_top_k_tiers

FIELD = "tierSet"

log = structlog.get_logger(__name__)


def check_fits(declared: TierSet, manifest: Manifest) -> None:
    """Raise :class:`InvalidSettings` for a tier that the checkpoint has not, or has larger."""
    by_name = {tier.name: tier for tier in manifest.tiers}
    for tier in declared.tiers:
        found = by_name.get(tier.name)
        if found is None or (found.id, found.experts) != (tier.id, tier.experts):
            has = ", ".join(
                f"{t.name} (id {t.id}, {t.experts} experts a layer)" for t in manifest.tiers
            )
            raise InvalidSettings(
                f"the checkpoint has no tier {tier.name} of id {tier.id} with {tier.experts}"
                " experts a layer",
                where=FIELD,
                remedy=f"it has {has}" if has else "it has no experts: name no TierSet",
            )
        _check_budget(tier, manifest)


def as_declared(config: DecoderConfig, manifest: Manifest, declared: TierSet) -> DecoderConfig:
    """The model with the TierSet's routing seed, and with its number of tiers a token.

    A seed of 0 leaves the checkpoint's. Raises :class:`InvalidSettings` where ``declared`` does not
    fit the checkpoint, or wants a number of tiers of routers that choose among all experts.
    """
    check_fits(declared, manifest)
    if declared.routing_seed:
        config = with_routing_seed(config, declared.routing_seed)
    by_tier = with_top_k_tiers(config, declared.top_k_tiers)
    if by_tier is None and declared.top_k_tiers not in (1, len(declared.tiers)):
        raise InvalidSettings(
            f"topKTiers is {declared.top_k_tiers}, but routers of {config.family} choose among the"
            " experts of all tiers",
            where=f"{FIELD}.topKTiers",
            remedy="leave it out",
        )
    log.info(
        "routers do as the TierSet declares",
        model=manifest.model,
        seed=f"{declared.routing_seed or manifest.routing_seed:x}",
        count=None if by_tier is None else declared.top_k_tiers,
    )
    return by_tier or config


def _check_budget(tier: Tier, manifest: Manifest) -> None:
    experts = [expert for expert in manifest.experts if expert.key.tier == tier.id]
    parameters = sum(expert.num_parameters for expert in experts)
    if 0 < tier.parameter_budget < parameters:
        raise InvalidSettings(
            f"tier {tier.name} has {parameters} parameters, and its budget is"
            f" {tier.parameter_budget}",
            where=f"{FIELD}.tiers.{tier.name}.parameterBudget",
            remedy="raise the budget, or convert the checkpoint with fewer experts in the tier",
        )
