"""``/v1/models``: what can be asked for, and under which names."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from aiohttp import web
from msgspec import UNSET

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import ModelNotFound, Unsupported
from lite_llm.gateway.authentication import tenant_of
from lite_llm.openai.naming import model_named, name_of, not_found
from lite_llm.openai.schema import Model, ModelList
from lite_llm.placement import ClusterView, Observed, resolve
from lite_llm.proto.v1.generate_pb2 import GenerateStart
from lite_llm.tenants import Tenant

__all__ = [
    "Models",
    "check_can",
    "is_seen",
    "model_named",
    "name_of",
    "not_found",
    "seen",
]

NATIVE = ("", "native")


class Models:
    """The handlers of both routes."""

    def __init__(self, views: Observed[ClusterView]) -> None:
        self._views = views

    async def list(self, request: web.Request) -> web.Response:
        """``GET /v1/models``."""
        tenant = tenant_of(request)
        view = self._views.value
        names = sorted({*view.models, *view.aliases, *view.named})
        models = (self._told(view, name) for name in names if is_seen(view, name, tenant))
        return _json(ModelList(data=tuple(models)))

    async def get(self, request: web.Request) -> web.Response:
        """``GET /v1/models/{name}``."""
        name, tenant = request.match_info["name"], tenant_of(request)
        self.find(name, tenant)
        return _json(self._told(self._views.value, model_named(name)))

    def find(self, name: str, tenant: Tenant) -> ModelRef:
        """The declared model of this name; :class:`ModelNotFound` if ``tenant`` sees none."""
        view = self._views.value
        model = seen(view, model_named(name), tenant)
        if model not in view.models:
            raise not_found(name)
        return model

    def is_native(self, model: ModelRef) -> bool:
        """Whether our own engine runs it, which makes texts and nothing else."""
        return is_native(self._views.value, model)

    def _told(self, view: ClusterView, name: ModelRef) -> Model:
        model = resolve(view, name)
        return Model(
            id=name_of(name),
            root=UNSET if model == name else name_of(model),
            version=view.models[model].version or UNSET,
        )


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def seen(view: ClusterView, name: ModelRef, tenant: Tenant) -> ModelRef:
    """The model that answers to ``name``; :class:`ModelNotFound` if ``tenant`` must not see it."""
    model = resolve(view, name)
    spec = view.models.get(model)
    # Who may use an alias may use what it stands for.
    if not tenant.sees(name) or (spec is not None and not tenant.is_among(spec.tenants)):
        raise not_found(name_of(name))
    return model


def is_seen(view: ClusterView, name: ModelRef, tenant: Tenant) -> bool:
    """Whether ``name`` is of a declared model that ``tenant`` may see."""
    try:
        return seen(view, name, tenant) in view.models
    except ModelNotFound:
        return False


def is_native(view: ClusterView, model: ModelRef) -> bool:
    """Whether our own engine runs it."""
    spec = view.models.get(model)
    return spec is not None and spec.backend in NATIVE


def check_can(view: ClusterView, model: ModelRef, starts: Iterable[GenerateStart]) -> None:
    """:class:`Unsupported` for what the model's backend can't do, before anything is loaded."""
    wants_json = any(start.sampling.HasField("json_schema") for start in starts)
    if wants_json and is_native(view, model):
        raise Unsupported(
            f"{model} runs on our own engine, which can't be held to JSON",
            where="response_format",
            remedy="leave response_format out, or ask a model of the backend llamacpp or vllm",
        )
