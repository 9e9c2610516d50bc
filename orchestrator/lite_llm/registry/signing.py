"""What an agent needs to load a model, whether or not it may open our stores itself."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from lite_llm.checkpoint import INDEX_NAME, SIGNATURE_NAME
from lite_llm.checkpoint.checks import manifest_of
from lite_llm.checkpoint.index import decode
from lite_llm.contracts import LiteLLMError
from lite_llm.proto.v1.agent_pb2 import LoadRequest, SignedFile
from lite_llm.proto.v1.model_pb2 import Medium, ModelSpec
from lite_llm.registry.publishing import LONGEST_SIGNED, published_index, signed_urls
from lite_llm.registry.settings import RegistrySettings

log = structlog.get_logger(__name__)

SIGNED_SECONDS: Final = min(12 * 3600.0, LONGEST_SIGNED.total_seconds())
"""Longer than a fetch takes; temporary credentials of the signer may end sooner."""
PATIENCE_SECONDS: Final = 10.0  # a store that is silent must not hold up an agent that can read


async def load_request(spec: ModelSpec, registry: RegistrySettings | None) -> LoadRequest:
    """To serve the model, with signed addresses where its checkpoint lies in one of our stores.

    What can't be signed is left to the agent's own credentials.
    """
    request = LoadRequest(spec=spec, target=Medium.MEDIUM_GPU)
    uri = spec.source.uri
    if registry is None or not _is_ours(uri, registry):
        return request
    options = registry.options_for(uri)
    until = int(time.time() + SIGNED_SECONDS)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            index = await published_index(uri, options)
            if index is None:
                return request
            where = f"{uri}/{INDEX_NAME}"
            manifest = await asyncio.to_thread(lambda: manifest_of(*decode(index, where), where))
            names = [INDEX_NAME, SIGNATURE_NAME, *manifest.extras]
            names += [file.name for file in manifest.files]
            urls = await signed_urls(uri, names, options, seconds=SIGNED_SECONDS)
    except (LiteLLMError, TimeoutError) as error:
        log.warning("addresses can't be signed", address=uri, error=str(error))
        return request
    request.signed_files.extend(SignedFile(name=name, url=url) for name, url in urls.items())
    request.signed_until = until
    return request


def _is_ours(uri: str, registry: RegistrySettings) -> bool:
    """Whether it lies below a store that signs: to nothing else do our credentials give a key."""
    stores = [store.rstrip("/") + "/" for store in registry.stores]
    return uri.startswith(("s3://", "az://", "gs://")) and uri.startswith(tuple(stores))
