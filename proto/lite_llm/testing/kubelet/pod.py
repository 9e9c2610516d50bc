"""Lives one Pod through: its volumes, its containers in order, its status, its end."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lite_llm.testing.control_plane import ApiError
from lite_llm.testing.kubelet.api import RETRY_SECONDS, UNREACHABLE, Api, Json
from lite_llm.testing.kubelet.backoff import BackOff
from lite_llm.testing.kubelet.environment import Place, Sources, Unstartable
from lite_llm.testing.kubelet.keeper import Keeper, Upkeep
from lite_llm.testing.kubelet.plan import ContainerPlan, Mount, plan_container
from lite_llm.testing.kubelet.status import (
    PodFacts,
    Terminated,
    Waiting,
    init_policy,
    pod_status,
    readiness,
    resumed,
    start_time,
)
from lite_llm.testing.kubelet.volumes import files_of, kind_of, references

SOURCES_SECONDS = 0.5  # between two looks for ConfigMaps and Secrets that are not there yet


def pod_path(pod: Json) -> str:
    """Where the apiserver has the Pod."""
    meta = pod["metadata"]
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"


@dataclass(frozen=True)
class Surroundings:
    """What all Pods of a kubelet share."""

    api: Api
    directory: Path
    variables: Mapping[str, str]
    entrypoints: Mapping[str, Sequence[str]]
    back_off: BackOff
    hosts: Path
    """Names of Services; every container sees it as ``/etc/hosts``."""


class PodRunner:
    """Runs ``pod`` from its first sight to its removal from the apiserver."""

    def __init__(self, pod: Json, place: Place, surroundings: Surroundings) -> None:
        self.pod = pod
        self.place = place
        self._around = surroundings
        spec = pod["spec"]
        self._path = pod_path(pod)
        self._directory = surroundings.directory / pod["metadata"]["uid"]
        self._published: Json = pod.get("status") or {}
        self._start_time = start_time(self._published, time.time())
        self._stopping = asyncio.Event()
        self._grace = 0.0
        self._overwritten = False
        self._changed = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._endings: list[asyncio.Task[None]] = []
        self.init = [self._keeper(one, init=True) for one in spec.get("initContainers") or ()]
        self.main = [self._keeper(one, init=False) for one in spec["containers"]]

    def _keeper(self, spec: Json, *, init: bool) -> Keeper:
        policy = self.pod["spec"]["restartPolicy"]
        grace = self.pod["spec"].get("terminationGracePeriodSeconds")
        upkeep = Upkeep(
            restart_policy=init_policy(policy) if init else policy,
            pod_ip=self.place.pod_ip,
            grace_seconds=30.0 if grace is None else float(grace),
            back_off=self._around.back_off,
            directory=self._directory,
        )
        known = self._published.get("initContainerStatuses" if init else "containerStatuses")
        facts = resumed(spec["name"], spec["image"], known or (), time.time())
        return Keeper(spec, facts, upkeep, self._changed.set)

    # -- told from outside

    def update(self, pod: Json) -> None:
        """The Pod as it is now: it may be asked to end, or to end sooner."""
        self.pod = pod
        if readiness(pod.get("status") or {}) != readiness(self._published):
            self._overwritten = True  # by the controller of Nodes, if this one's heart stood still
            self._changed.set()
        if "deletionTimestamp" in pod["metadata"]:
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            if self._stopping.is_set() and grace >= self._grace:
                return
            self._grace = grace
            self._stopping.set()
            for keeper in (*self.init, *self.main):
                self._endings.append(asyncio.create_task(keeper.end_for_good(grace)))

    # -- its life

    async def run(self) -> None:
        """Live the Pod through; cancelling kills what runs and tells nobody, as a power cut."""
        try:
            async with asyncio.TaskGroup() as group:
                publishing = group.create_task(self._publish_changes())
                await self._live()
                await asyncio.gather(*self._endings)
                await self._publish()
                await self._stopping.wait()  # a Pod that completed stays until it is deleted
                await self._remove()
                publishing.cancel()
        finally:
            for ending in self._endings:
                ending.cancel()
            await asyncio.gather(*self._endings, return_exceptions=True)

    async def _live(self) -> None:
        self._changed.set()
        plans = await self._prepare()
        for keeper in self.init:
            if self._stopping.is_set():
                return
            await keeper.keep(plans[keeper.spec["name"]])
            state = keeper.facts.state
            if not isinstance(state, Terminated) or state.exit_code != 0:
                return
            keeper.note(ready=True)
        if not self._stopping.is_set():
            async with asyncio.TaskGroup() as together:
                for keeper in self.main:
                    together.create_task(keeper.keep(plans[keeper.spec["name"]]))

    async def _prepare(self) -> dict[str, ContainerPlan]:
        """Plans of all containers, as soon as all that they name is there; none when stopped."""
        while not self._stopping.is_set():
            try:
                sources = await self._sources()
                self._make_volumes(sources)
            except (*UNREACHABLE, ApiError, Unstartable) as error:
                for keeper in self.main:
                    keeper.note(state=Waiting("ContainerCreating", str(error)))
            else:
                if plans := self._plans(sources):
                    return plans
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), SOURCES_SECONDS)
        return {}

    async def _sources(self) -> Sources:
        meta = self.pod["metadata"]
        named = references(self.pod)
        space = f"/api/v1/namespaces/{meta['namespace']}"
        find = self._around.api.find
        maps = {name: await find(f"{space}/configmaps/{name}") for name in named.config_maps}
        secrets = {name: await find(f"{space}/secrets/{name}") for name in named.secrets}
        account = self.pod["spec"].get("serviceAccountName") or "default"
        tokens = {}
        for audience, seconds in named.tokens.items():
            owner = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
            wish = {"expirationSeconds": max(seconds, 600), "boundObjectRef": owner}
            if audience:
                wish["audiences"] = [audience]
            order = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": wish}
            path = f"{space}/serviceaccounts/{account}/token"
            tokens[audience] = (await self._around.api.request("POST", path, order))["status"][
                "token"
            ]
        return Sources(
            {name: found for name, found in maps.items() if found},
            {name: found for name, found in secrets.items() if found},
            tokens,
        )

    def _make_volumes(self, sources: Sources) -> None:
        """Write all volumes; they are read once, when the Pod starts."""
        for volume in self.pod["spec"].get("volumes") or ():
            files = files_of(volume, self.pod, self.place, sources)
            if kind_of(volume) == "hostPath":
                continue
            folder = self._directory / "volumes" / volume["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for path, file in files.items():
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.content)
                target.chmod(file.mode)

    def _plans(self, sources: Sources) -> dict[str, ContainerPlan]:
        """Plans of all containers; none if one cannot be planned, which then says why."""
        plans = {}
        given = {**self._around.variables, "HOSTNAME": self.pod["metadata"]["name"]}
        for keeper in (*self.init, *self.main):
            try:
                plan = plan_container(
                    keeper.spec,
                    self.pod,
                    self.place,
                    sources,
                    volumes=self._directory / "volumes",
                    given=given,
                    entrypoints=self._around.entrypoints,
                )
                hosts = Mount(self._around.hosts, "/etc/hosts", read_only=True)
                plans[plan.name] = replace(plan, mounts=(hosts, *plan.mounts))
            except Unstartable as error:
                keeper.note(state=Waiting(error.reason, str(error)))
        if len(plans) < len(self.init) + len(self.main):
            return {}
        if self.init:
            for keeper in self.main:
                if isinstance(keeper.facts.state, Waiting):
                    keeper.note(state=Waiting("PodInitializing"))
        return plans

    # -- its status

    def status(self) -> dict[str, Any]:
        """The Pod's status by what is known now."""
        facts = PodFacts(
            restart_policy=self.pod["spec"]["restartPolicy"],
            host_ip=self.place.host_ip,
            pod_ip=self.place.pod_ip,
            start_time=self._start_time,
            init=[keeper.facts for keeper in self.init],
            main=[keeper.facts for keeper in self.main],
        )
        return pod_status(facts, self._published, time.time())

    async def _publish_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._publish()

    async def _publish(self) -> None:
        async with self._publishing:  # an older status must not overtake a newer one
            await self._publish_now()

    async def _publish_now(self) -> None:
        while (status := self.status()) != self._published or self._overwritten:
            self._overwritten = False
            # Without this order the merge would add the address to one of before.
            addresses = [{"$patch": "replace"}, *status["podIPs"]]
            body = {
                "metadata": {"uid": self.pod["metadata"]["uid"]},
                "status": {**status, "podIPs": addresses},
            }
            try:
                await self._around.api.request("PATCH", f"{self._path}/status", body)
            except UNREACHABLE:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except ApiError as error:
                if error.status < 500 and error.status not in (404, 409, 429):
                    raise
                if error.status in (404, 409):  # gone, or another of that name
                    return
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._published = status

    async def _remove(self) -> None:
        order = {
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": self.pod["metadata"]["uid"]},
        }
        while True:
            try:
                await self._around.api.request("DELETE", self._path, order)
            except UNREACHABLE:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except ApiError as error:
                if error.status not in (404, 409):
                    raise
            shutil.rmtree(self._directory / "volumes", ignore_errors=True)
            return
