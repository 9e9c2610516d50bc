"""Brings models in from where they are published: fetched once, converted, put into our stores."""

from lite_llm.registry.ingestor import ingesting
from lite_llm.registry.origin import Origin, RemoteFile, open_origin
from lite_llm.registry.publishing import publish, signed_urls
from lite_llm.registry.settings import RegistrySettings

__all__ = [
    "Origin",
    "RegistrySettings",
    "RemoteFile",
    "ingesting",
    "open_origin",
    "publish",
    "signed_urls",
]
