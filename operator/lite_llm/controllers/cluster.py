"""The cluster's API as the operator uses it, besides watching: list, patch, tell, log in."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import kopf
from kubernetes.aio import client, config

from lite_llm.contracts.errors import Conflict, InvalidSettings, StoreUnavailable
from lite_llm.controllers.announcing import Announcement
from lite_llm.controllers.patches import Patch
from lite_llm.controllers.specs import GROUP, KINDS, VERSION, Body, Plural, ResourceName

FIELD_MANAGER = "lite-llm-operator"
REQUEST_SECONDS = 10.0  # an API server that does not answer by then is asked again
LISTED_AT_ONCE = 500
_JSON_PATCH = "application/json-patch+json"
_LOST = (409, 422)  # the version, or a test of a patch, was not what it had to be


class Cluster:
    """Custom resources of ours on one API server; made by :func:`open_cluster`."""

    def __init__(
        self, configuration: Any, connection: Any, *, namespaces: Sequence[str], identity: str
    ) -> None:
        self._configuration = configuration
        self._namespaces = namespaces
        self._identity = identity
        # Any: objects are plain dictionaries here, which the client takes though its types say no.
        self._objects: Any = client.CustomObjectsApi(connection)
        self._events: Any = client.CoreV1Api(connection)

    async def list(self, plural: Plural) -> list[Body]:
        """Every object of a kind; :class:`StoreUnavailable` unless the API server is sure of it.

        An API server that starts answers 404 for a moment: that must never read as "none exist".
        Raises :class:`InvalidSettings` where the right to list is missing.
        """
        found: list[Body] = []
        for namespace in self._namespaces or ("",):
            token: str | None = None
            while token != "":
                page = await self._page(plural, namespace, token)
                found += page["items"]
                token = page["metadata"].get("continue", "")
        return found

    async def _page(self, plural: Plural, namespace: str, token: str | None) -> Any:
        where = (GROUP, VERSION, namespace, plural) if namespace else (GROUP, VERSION, plural)
        ask = (
            self._objects.list_namespaced_custom_object
            if namespace
            else self._objects.list_cluster_custom_object
        )
        more = {"_continue": token} if token else {}
        try:
            return await ask(*where, limit=LISTED_AT_ONCE, _request_timeout=REQUEST_SECONDS, **more)
        except (client.ApiException, aiohttp.ClientError, TimeoutError) as error:
            if isinstance(error, client.ApiException) and error.status in (401, 403):
                raise InvalidSettings(
                    f"the operator may not list {plural}.{GROUP}",
                    where="service account",
                    remedy=f"bind it to a role that may list and watch them in "
                    f"{namespace or 'all namespaces'}",
                ) from error
            raise StoreUnavailable(
                f"{plural}.{GROUP} can't be listed: {_words(error)}", where="API server"
            ) from error

    async def defines(self, plural: Plural) -> bool:
        """Whether the API server knows of a kind; True where it can't be asked."""
        try:
            told = await self._objects.get_api_resources(
                GROUP, VERSION, _request_timeout=REQUEST_SECONDS
            )
        except client.ApiException as error:
            return bool(error.status != 404)
        except (aiohttp.ClientError, TimeoutError):
            return True
        return any(each.name == plural for each in told.resources)

    async def patch(self, name: ResourceName, patch: Patch, *, status: bool) -> Body | None:
        """The object as it is then; None if it is gone, :class:`Conflict` if another was faster."""
        ask = (
            self._objects.patch_namespaced_custom_object_status
            if status
            else self._objects.patch_namespaced_custom_object
        )
        try:
            answer: Body = await ask(
                GROUP, VERSION, name.namespace, name.plural, name.name, patch,
                field_manager=FIELD_MANAGER,
                _content_type=_JSON_PATCH,
                _request_timeout=REQUEST_SECONDS,
            )  # fmt: skip
        except client.ApiException as error:
            if error.status == 404:
                return None
            if error.status in _LOST:
                raise Conflict(f"{name} changed meanwhile: {_words(error)}") from error
            raise
        return answer

    async def announce(self, name: ResourceName, body: Body, told: Announcement) -> None:
        """Post an Event about an object; one that was posted already is no error."""
        now = datetime.now(UTC)
        uid, version = body["metadata"]["uid"], body["metadata"]["resourceVersion"]
        mark = hashlib.sha256(f"{uid}{version}{told.reason}".encode()).hexdigest()[:16]
        at = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "metadata": {"name": f"{name.name[:200]}.{mark}", "namespace": name.namespace},
            "involvedObject": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KINDS[name.plural],
                "namespace": name.namespace,
                "name": name.name,
                "uid": uid,
                "resourceVersion": version,
            },
            "type": told.kind,
            "reason": told.reason,
            "message": told.message[:1024],
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": f"{GROUP}/operator",
            "reportingInstance": self._identity,
        }
        try:
            await self._events.create_namespaced_event(
                name.namespace, event, _request_timeout=REQUEST_SECONDS
            )
        except client.ApiException as error:
            # 409: posted before; 403 and 404: the namespace is going.
            if error.status not in (403, 404, 409):
                raise

    async def lease(self, namespace: str, name: str) -> Body | None:
        """A Lease; None if it does not exist."""
        try:
            answer: Body = await self._objects.get_namespaced_custom_object(
                "coordination.k8s.io", "v1", namespace, "leases", name,
                _request_timeout=REQUEST_SECONDS,
            )  # fmt: skip
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise
        return answer

    async def write_lease(self, lease: Body) -> Body:
        """Create it, or replace the version that it names; :class:`Conflict` if that is not it."""
        metadata = lease["metadata"]
        where = ("coordination.k8s.io", "v1", metadata["namespace"], "leases")
        try:
            if "resourceVersion" in metadata:
                answer: Body = await self._objects.replace_namespaced_custom_object(
                    *where, metadata["name"], lease, _request_timeout=REQUEST_SECONDS
                )
            else:
                answer = await self._objects.create_namespaced_custom_object(
                    *where, lease, _request_timeout=REQUEST_SECONDS
                )
        except client.ApiException as error:
            if error.status in (404, *_LOST):  # 404: it was deleted, so that any may make it anew
                raise Conflict(f"the lease {metadata['name']} went to another") from error
            raise
        return answer

    def login(self, **_: Any) -> kopf.ConnectionInfo:
        """The same credentials for kopf, read anew each time: service account tokens rotate."""
        known = self._configuration
        if known.refresh_api_key_hook:
            known.refresh_api_key_hook(known)
        scheme, _, token = known.api_key.get("BearerToken", "").rpartition(" ")
        return kopf.ConnectionInfo(
            server=known.host,
            ca_path=known.ssl_ca_cert,
            scheme=scheme or "Bearer",
            token=token or None,
            certificate_path=known.cert_file,
            private_key_path=known.key_file,
        )


def _words(error: Exception) -> str:
    if isinstance(error, client.ApiException):
        return f"{error.status} {error.reason}"
    return str(error) or type(error).__name__


@asynccontextmanager
async def open_cluster(
    kubeconfig: str | None, *, namespaces: Sequence[str] = (), identity: str = ""
) -> AsyncIterator[Cluster]:
    """Connect as a kubeconfig says, or, without one, as the pod's service account.

    ``namespaces``: where to look for our objects; empty is everywhere.
    """
    configuration = client.Configuration()
    try:
        if kubeconfig:
            await config.load_kube_config(kubeconfig, client_configuration=configuration)
        else:
            config.load_incluster_config(configuration)
    except config.ConfigException as error:
        raise InvalidSettings(
            f"no way into the cluster: {error}",
            where=kubeconfig or "service account",
            remedy="run in a pod with a service account, or give a kubeconfig",
        ) from error
    async with client.ApiClient(configuration) as connection:
        yield Cluster(configuration, connection, namespaces=namespaces, identity=identity)
