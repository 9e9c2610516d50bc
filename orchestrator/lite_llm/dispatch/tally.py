"""What all orchestrators see of requests, counted together by the one that leads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import InvalidName
from lite_llm.placement import ClusterView
from lite_llm.placement.facts import Held
from lite_llm.placement.forecast import Arrivals
from lite_llm.placement.scaling import Demand, full_at
from lite_llm.proto.v1.orchestrator_pb2 import DoorStatus, ScalingState
from lite_llm.wire import ref_from_proto


class Tally:
    """Of one term of a leader; what lasts longer stands in models' scaling states."""

    def __init__(self) -> None:
        self._doors: Mapping[str, DoorStatus] = {}
        self._arrived: dict[str, Counter[ModelRef]] = {}
        self._held: dict[str, Counter[ModelRef]] = {}
        self._came: Counter[ModelRef] = Counter()
        self._arrivals: dict[ModelRef, Arrivals] = {}
        self._full: dict[ModelRef, float] = {}

    def look(self, view: ClusterView) -> None:
        """Count what orchestrators told since the last look."""
        for gone in self._doors.keys() - view.doors.keys():
            del self._arrived[gone], self._held[gone]
        for name, door in view.doors.items():
            if door is not self._doors.get(name):
                self._count(name, door)
        self._doors = dict(view.doors)

    def demand(
        self, model: ModelRef, serving: Mapping[str, Held], state: ScalingState, now: float
    ) -> Demand:
        """For ``model``, since the last time that this was asked; ``now`` is in epoch seconds."""
        known = Arrivals(state.arrivals_per_second, state.growth_per_second, now)
        arrivals = self._arrivals.get(model, known).after(self._came.pop(model, 0), now)
        full = full_at(serving, self._full.get(model, state.replica_requests))
        self._arrivals[model], self._full[model] = arrivals, full
        return Demand(sum(held[model] for held in self._held.values()), arrivals, full)

    def keep(self, models: Mapping[ModelRef, object]) -> None:
        """Forget all but these."""
        for gone in self._arrivals.keys() - models.keys():
            del self._arrivals[gone], self._full[gone]

    def _count(self, name: str, door: DoorStatus) -> None:
        arrived, held = Counter[ModelRef](), Counter[ModelRef]()
        for demand in door.demands:
            try:
                model = ref_from_proto(demand.model)
            except InvalidName:  # of a newer version, perhaps
                continue
            arrived[model], held[model] = demand.arrived, demand.held
        if (
            before := self._arrived.get(name)
        ) is not None:  # else nobody knows since when it counts
            self._came += Counter({ref: num - before[ref] for ref, num in arrived.items()})
        self._arrived[name], self._held[name] = arrived, held
