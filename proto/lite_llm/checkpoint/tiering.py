"""Which expert belongs to which tier: by rule, or by how often each was recorded to run.

The assignment is a mapping, usually from a file::

    activations: activations.json        # {"layer": [count per expert, …]}; only for most_used
    tiers:
      - {name: hot, placement: hot, most_used: 16, top_k_experts: 4}
      - {name: second, placement: warm, experts: "0-7,12"}
      - {name: third, placement: cold, experts: {"0-11": "8-11", "12-": "13"}}   # by layer
      - {name: rest, placement: archive, experts: rest, groups: 2}

Tiers choose in their order, each from what the ones before left over, in every layer for itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import yaml
from msgspec import Meta, Struct

from lite_llm.contracts.errors import InvalidName, InvalidSettings, LiteLLMError, OverBudget
from lite_llm.contracts.identity import ExpertKey
from lite_llm.contracts.manifest import ExpertRecord
from lite_llm.contracts.tiers import Placement, Tier

REST: Final = "rest"

Count = Annotated[int, Meta(ge=1)]


class TierRule(Struct, forbid_unknown_fields=True, kw_only=True):
    """One tier and how it chooses its experts."""

    name: str
    placement: str = "hot"
    experts: str | dict[str, str] = ""
    """Ranges of expert numbers such as ``"0-7,12"``, for all layers or by ranges of layers, or
    ``"rest"``."""
    most_used: Annotated[int, Meta(ge=0)] = 0
    """So many experts of each layer, those with the highest counts, lower numbers first."""
    groups: Count = 1
    top_k_groups: Count = 1
    top_k_experts: Count = 1
    parameter_budget: Annotated[int, Meta(ge=0)] | None = None
    """As a count; the exact sum of the tier's parameters where it is not given."""


class TierRules(Struct, forbid_unknown_fields=True):
    """The whole assignment."""

    tiers: Annotated[list[TierRule], Meta(min_length=1)]
    activations: dict[str, list[Annotated[float, Meta(ge=0)]]] = {}
    """How often each expert of a layer ran, by layer."""


@dataclass(frozen=True)
class Assignment:
    """The tiers of a checkpoint and its experts under their keys, sorted."""

    tiers: tuple[Tier, ...]
    experts: tuple[ExpertRecord, ...]


def load_rules(path: Path) -> TierRules:
    """The rules in a YAML or JSON file; :class:`InvalidSettings` names what is wrong in it."""
    fields = _load(path)
    activations = fields.get("activations")
    if isinstance(activations, str):
        fields = fields | {"activations": _load(path.parent / activations)}
    try:
        return msgspec.convert(fields, TierRules)
    except msgspec.ValidationError as error:
        raise _wrong(str(path), str(error)) from error


def assign(experts: Iterable[ExpertRecord], rules: TierRules) -> Assignment:
    """``experts`` under new keys, as ``rules`` say.

    Raises :class:`InvalidSettings` for an expert without a tier and for rules that make no tier,
    and :class:`OverBudget` for a tier that would hold more than it declares.
    """
    by_layer: dict[int, dict[int, ExpertRecord]] = {}
    for expert in experts:
        by_layer.setdefault(expert.key.layer, {})[expert.router_row] = expert
    chosen: list[list[list[ExpertRecord]]] = [[] for _ in rules.tiers]
    for layer, left in sorted(by_layer.items()):
        for rule, layers in zip(rules.tiers, chosen, strict=True):
            rows = sorted(_rows(rule, layer, left, rules.activations))
            layers.append([left.pop(row) for row in rows])
        if left:
            raise _wrong(
                f"layer {layer}", f"no tier takes expert {min(left)}; end with `experts: rest`"
            )
    tiers, placed = [], []
    for number, (rule, layers) in enumerate(zip(rules.tiers, chosen, strict=True)):
        per_group = -(-max((len(members) for members in layers), default=0) // rule.groups)
        if not per_group:
            raise _wrong(f"tier {rule.name!r}", "no expert is left for it")
        for members in layers:
            for position, expert in enumerate(members):
                group, within = divmod(position, per_group)
                key = ExpertKey(expert.key.layer, number, group, within)
                placed.append(ExpertRecord(key, expert.parts, expert.router_row))
        tiers.append(_tier(number, rule, per_group, layers))
    return Assignment(tuple(tiers), tuple(sorted(placed, key=lambda record: record.key)))


def _rows(
    rule: TierRule,
    layer: int,
    left: Mapping[int, ExpertRecord],
    activations: Mapping[str, Sequence[float]],
) -> Iterable[int]:
    if bool(rule.experts) == bool(rule.most_used):
        raise _wrong(f"tier {rule.name!r}", "give either experts or most_used")
    if rule.most_used:
        counts = activations.get(str(layer), ())
        if len(counts) <= max(left, default=-1):
            raise _wrong(
                f"activations of layer {layer}", f"{len(counts)} counts are too few for its experts"
            )
        return sorted(left, key=lambda row: (-counts[row], row))[: rule.most_used]
    ranges = rule.experts
    if isinstance(ranges, dict):
        ranges = next(
            (rows for layers, rows in ranges.items() if _covers(layers, layer, rule.name)), ""
        )
    if ranges == REST:
        return left
    return [row for row in left if ranges and _covers(ranges, row, rule.name)]


def _covers(ranges: str, number: int, name: str) -> bool:
    """Whether ``number`` lies in ``ranges``, such as ``"0-7,12,20-"``."""
    for piece in ranges.split(","):
        first, dash, last = (part.strip() for part in piece.partition("-"))
        try:
            low = int(first)
            high = (int(last) if last else number) if dash else low
        except ValueError as error:
            raise _wrong(f"tier {name!r}", f"{piece[:40]!r} is no range") from error
        if low <= number <= high:
            return True
    return False


def _tier(
    number: int, rule: TierRule, per_group: int, layers: Iterable[Iterable[ExpertRecord]]
) -> Tier:
    held = sum(expert.num_parameters for layer in layers for expert in layer)
    budget = held if rule.parameter_budget is None else rule.parameter_budget
    if held > budget:
        raise OverBudget(
            f"tier {rule.name!r} would hold {held} parameters, but its budget is {budget}",
            where=f"tier {rule.name!r}",
            remedy="raise parameter_budget or give it fewer experts",
        )
    try:
        return Tier(
            id=number,
            name=rule.name,
            parameter_budget=budget,
            groups=rule.groups,
            experts_per_group=per_group,
            placement=Placement[rule.placement.upper()],
            top_k_groups=rule.top_k_groups,
            top_k_experts=rule.top_k_experts,
        )
    except KeyError as error:
        names = ", ".join(placement.name.lower() for placement in Placement)
        raise _wrong(f"tier {rule.name!r}", f"placement must be one of {names}") from error
    except (InvalidName, InvalidSettings) as error:
        raise _wrong(f"tier {rule.name!r}", str(error)) from error


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _wrong(str(path), f"can't be read: {error}") from error
    if not isinstance(value, dict):
        raise _wrong(str(path), "is no mapping")
    return value


def _wrong(where: str, what: str) -> LiteLLMError:
    return InvalidSettings(f"{where}: {what}", where=where, remedy="see docs/checkpoint-format.md")
