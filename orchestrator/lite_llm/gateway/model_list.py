"""``/v1/models``: what can be asked for, and under which names."""

from __future__ import annotations

import msgspec
from aiohttp import web

from lite_llm.contracts import ModelRef
from lite_llm.gateway.authentication import tenant_of
from lite_llm.openai.naming import model_named, name_of, not_found
from lite_llm.openai.schema import Model, ModelList
from lite_llm.placement import ClusterView, Observed
from lite_llm.tenants import Tenant

__all__ = ["Models", "check_sees", "model_named", "name_of", "not_found"]


class Models:
    """The handlers of both routes."""

    def __init__(self, views: Observed[ClusterView]) -> None:
        self._views = views

    async def list(self, request: web.Request) -> web.Response:
        """``GET /v1/models``."""
        tenant = tenant_of(request)
        seen = filter(tenant.sees, sorted(self._views.value.models))
        models = tuple(Model(id=name_of(model)) for model in seen)
        return _json(ModelList(data=models))

    async def get(self, request: web.Request) -> web.Response:
        """``GET /v1/models/{name}``."""
        return _json(Model(id=name_of(self.find(request.match_info["name"], tenant_of(request)))))

    def find(self, name: str, tenant: Tenant) -> ModelRef:
        """The declared model of this name; :class:`ModelNotFound` if ``tenant`` sees none."""
        model = model_named(name)
        if model not in self._views.value.models or not tenant.sees(model):
            raise not_found(name)
        return model


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def check_sees(tenant: Tenant, model: ModelRef) -> None:
    """:class:`ModelNotFound` for a model that ``tenant`` must not see."""
    if not tenant.sees(model):
        raise not_found(str(model))
