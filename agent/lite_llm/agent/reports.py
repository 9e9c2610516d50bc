"""What the agent says about itself: one report, for whoever asks and for the metadata store."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from importlib.metadata import version

from lite_llm.agent.memory import Memory
from lite_llm.agent.models import Models
from lite_llm.agent.node import Node
from lite_llm.agent.residency import residency_of
from lite_llm.agent.settings import AgentSettings
from lite_llm.agent.warmth import Warmth
from lite_llm.contracts import Medium
from lite_llm.proto.v1 import agent_pb2
from lite_llm.tiers import DiskTier
from lite_llm.wire.values import medium_to_proto


class Reporter:
    """Puts together what the parts know."""

    def __init__(
        self,
        settings: AgentSettings,
        node: Node,
        models: Models,
        *,
        memory: Memory,
        device: Memory | None = None,
        warmth: Warmth,
        disks: DiskTier,
        disk_bytes: Mapping[Medium, int],
    ) -> None:
        self.trouble = ""
        """In words; empty while all is well."""
        self.heartbeat = 0
        self.grpc_address = ""
        """``host:port`` that others reach it at; empty until it listens."""
        self.http_address = ""
        self._settings = settings
        self._node = node
        self._models = models
        self._memory = memory
        self._device = device
        self._warmth = warmth
        self._disks = disks
        self._disk_bytes = disk_bytes
        self._incarnation = uuid.uuid4().hex
        self._started_at = int(time.time())
        self._version = version("lite-llm")

    @property
    def node_name(self) -> str:
        """Under which it is registered."""
        return self._settings.node

    def report(self) -> agent_pb2.AgentReport:
        """Everything about the node and its models, as of now."""
        settings, holdings = self._settings, self._models.holdings
        status = agent_pb2.AgentStatus(
            node=settings.node,
            grpc_address=self.grpc_address,
            http_address=self.http_address,
            version=self._version,
            incarnation=self._incarnation,
            started_at=self._started_at,
            devices=self._node.devices,
            media=self._media(),
            zone=settings.zone,
            price_class=settings.price_class,
            labels=settings.labels,
            running_requests=sum(held.running for held in holdings),
            waiting_requests=sum(held.waiting for held in holdings),
            draining=self._models.draining,
            health=agent_pb2.Health(healthy=not self.trouble, reason=self.trouble),
            heartbeat=self.heartbeat,
        )
        residencies = [residency_of(held, settings.node) for held in holdings]
        return agent_pb2.AgentReport(status=status, residencies=residencies)

    def _media(self) -> list[agent_pb2.MediumStatus]:
        """The GPU's if there is one; workers on the processor and sleeping weights share DRAM."""
        speeds, warmth, memory = self._node.speeds, self._warmth, self._memory
        near = [] if self._device is None else [self._device]
        return [
            *(
                agent_pb2.MediumStatus(
                    medium=medium_to_proto(Medium.GPU),
                    capacity_bytes=device.budget_bytes,
                    used_bytes=device.used_bytes,
                )
                for device in near
            ),
            agent_pb2.MediumStatus(
                medium=medium_to_proto(Medium.DRAM),
                capacity_bytes=memory.budget_bytes + warmth.budget_bytes,
                used_bytes=memory.used_bytes + warmth.used_bytes,
                pinned_bytes=warmth.locked_bytes,
                read_bytes_per_second=speeds.get(Medium.DRAM, 0),
            ),
            *(
                agent_pb2.MediumStatus(
                    medium=medium_to_proto(medium),
                    capacity_bytes=num_bytes,
                    used_bytes=self._disks.used_bytes(medium),
                    read_bytes_per_second=speeds.get(medium, 0),
                )
                for medium, num_bytes in self._disk_bytes.items()
            ),
        ]
