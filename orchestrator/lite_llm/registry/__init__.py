"""Brings models in from where they are published: fetched once, converted, put into our stores."""

from lite_llm.registry.ingestor import ingesting
from lite_llm.registry.publishing import publish, signed_urls
from lite_llm.registry.settings import RegistrySettings
from lite_llm.registry.signing import load_request

__all__ = [
    "RegistrySettings",
    "ingesting",
    "load_request",
    "publish",
    "signed_urls",
]
