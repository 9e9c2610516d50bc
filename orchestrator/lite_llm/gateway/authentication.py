"""Finds out who asks, over HTTP and gRPC, before anything else is looked at."""

from __future__ import annotations

from typing import Any

import grpc.aio
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from lite_llm.tenants import ANYBODY, Keys, Tenant

TENANT = web.RequestKey("tenant", Tenant)
"""Who asks; set for everything below these paths."""

_ASKED = ("/v1/", "/lite-llm/v1/")


def authenticating(keys: Keys) -> Middleware:
    """Refuses requests to the API, OpenAI's and our own, that carry no key of anybody."""

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(_ASKED):
            request[TENANT] = keys.tenant(request.headers.get("Authorization", ""))
        return await handler(request)

    return authenticate


def tenant_of(request: web.Request) -> Tenant:
    """Who asks; anybody where nobody needs a key."""
    tenant: Tenant = request.get(TENANT, ANYBODY)
    return tenant


def caller(context: grpc.aio.ServicerContext[Any, Any], keys: Keys) -> Tenant:
    """Who calls, by the metadata ``authorization``."""
    metadata = dict(context.invocation_metadata() or ())
    given = metadata.get("authorization", "")
    return keys.tenant(given if isinstance(given, str) else given.decode(errors="replace"))
