"""The cluster's API as the operator uses it, besides watching: list, write status, log in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import kopf
import structlog
from kubernetes.aio import client, config

from lite_llm.contracts.errors import InvalidSettings
from lite_llm.controllers.specs import GROUP, MODELS, VERSION, ResourceName

RETRY_SECONDS = 2.0  # about an etcd restart, or an API server's
MERGE_PATCH = "application/merge-patch+json"

log = structlog.get_logger(__name__)


class Cluster:
    """Custom resources of ours on one API server; made by :func:`open_cluster`."""

    def __init__(self, configuration: Any, connection: Any) -> None:
        self._configuration = configuration
        self._resources = client.CustomObjectsApi(connection)

    async def wait_models(self) -> list[ResourceName]:
        """Every ``LiteLLMModel`` that exists, once the API server serves them.

        An API server that starts answers 404 for a moment: that must never read as "none exist".
        """
        while True:
            try:
                listed: Any = await self._resources.list_cluster_custom_object(
                    GROUP, VERSION, MODELS
                )
            except (client.ApiException, aiohttp.ClientError) as error:
                if isinstance(error, client.ApiException) and error.status in (401, 403):
                    raise InvalidSettings(
                        f"the operator may not list {MODELS}.{GROUP}",
                        where="service account",
                        remedy="bind it to a role that may list and watch them in all namespaces",
                    ) from error
                log.warning("custom resources can't be listed yet", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return [ResourceName.of(body) for body in listed["items"]]

    async def write_status(self, resource: ResourceName, status: Mapping[str, Any]) -> None:
        """Merge ``status`` into a model's, lists as a whole. That it is gone is no error."""
        try:
            await self._resources.patch_namespaced_custom_object_status(
                GROUP, VERSION, resource.namespace, MODELS, resource.name, {"status": dict(status)},
                _content_type=MERGE_PATCH,
            )  # fmt: skip
        except client.ApiException as error:
            if error.status != 404:
                raise

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


@asynccontextmanager
async def open_cluster(kubeconfig: str | None) -> AsyncIterator[Cluster]:
    """Connect as a kubeconfig says, or, without one, as the pod's service account."""
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
        yield Cluster(configuration, connection)
