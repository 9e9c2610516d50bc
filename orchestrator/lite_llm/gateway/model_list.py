"""``/v1/models``: what can be asked for, and under which names."""

from __future__ import annotations

import msgspec
from aiohttp import web

from lite_llm.contracts import DEFAULT_NAMESPACE, ModelRef
from lite_llm.contracts.errors import InvalidName, ModelNotFound
from lite_llm.gateway.authentication import tenant_of
from lite_llm.gateway.schema import Model, ModelList
from lite_llm.placement import ClusterView, Observed
from lite_llm.tenants import Tenant


def model_named(name: str) -> ModelRef:
    """Of the ``model`` field of a request; a name that nothing can have is not found either."""
    try:
        return ModelRef.parse(name)
    except InvalidName as error:
        raise not_found(name) from error


def name_of(model: ModelRef) -> str:
    """The shortest name that clients can use."""
    return model.name if model.namespace == DEFAULT_NAMESPACE else str(model)


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


def not_found(name: str) -> ModelNotFound:
    """What is said of a model that does not exist, and of one that the tenant must not see."""
    return ModelNotFound(
        f"the model {name[:200]!r} does not exist", where="model", remedy="GET /v1/models lists all"
    )
