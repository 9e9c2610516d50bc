"""The few requests that a kubelet makes, over aiohttp: plain JSON in, plain JSON out."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from lite_llm.testing.control_plane import ApiError, ControlPlane

Json = dict[str, Any]
UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError)
"""What a request raises while the apiserver is away."""

RETRY_SECONDS = 0.2
TIMEOUT_SECONDS = 30.0
LINE_BYTES = 4 << 20  # an object in a watch is one line, and may be as large as etcd's limit


class Api:
    """An authenticated session with the apiserver of a control plane; use as a context manager."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            self._plane.url,
            headers={"Authorization": f"Bearer {self._plane.token}"},
            connector=aiohttp.TCPConnector(
                ssl=ssl.create_default_context(cafile=self._plane.ca_file), limit=0
            ),
            read_bufsize=LINE_BYTES,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()
        await asyncio.sleep(0.5)  # a TLS connection closed amid an answer outlives it a little

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, str] | None = None,
    ) -> Json:
        """One request; a PATCH is a strategic merge.

        Raises:
            ApiError: any status of 400 or more.
            UNREACHABLE: the apiserver is away.
        """
        patch = "application/strategic-merge-patch+json"
        async with self._session.request(
            method,
            path,
            params=params,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": patch if method == "PATCH" else "application/json"},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
        ) as response:
            answer: Json = await response.json(content_type=None)
            if response.status >= 400:
                raise ApiError(response.status, answer["message"])
            return answer

    async def find(self, path: str) -> Json | None:
        """An object, or None where there is none."""
        try:
            return await self.request("GET", path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    async def follow(self, path: str, selector: str) -> AsyncIterator[dict[str, Json]]:
        """All objects of a collection by uid, again after each change, for ever.

        A lost connection or a compacted history is a new look at the whole: nothing is missed.
        """
        while True:
            try:
                listed = await self.request("GET", path, params={"fieldSelector": selector})
                objects = {item["metadata"]["uid"]: item for item in listed["items"]}
                yield objects
                version = listed["metadata"]["resourceVersion"]
                async for kind, item in self._watch(path, selector, version):
                    uid = item["metadata"]["uid"]
                    objects = {**objects, uid: item}
                    if kind == "DELETED":
                        del objects[uid]
                    yield objects
            except (*UNREACHABLE, ApiError):
                await asyncio.sleep(RETRY_SECONDS)

    async def _watch(
        self, path: str, selector: str, version: str
    ) -> AsyncIterator[tuple[str, Json]]:
        params = {"fieldSelector": selector, "watch": "true", "resourceVersion": version}
        forever = aiohttp.ClientTimeout(total=None)
        async with self._session.get(path, params=params, timeout=forever) as response:
            if response.status >= 400:
                raise ApiError(response.status, await response.text())
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(event["object"]["code"], event["object"]["message"])
                yield event["type"], event["object"]
