"""Models on a Hugging Face hub: ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lite_llm.contracts.errors import (
    Forbidden,
    InvalidRequest,
    ModelNotFound,
    StoreUnavailable,
)
from lite_llm.stores.patient_source import StoreSettings
from lite_llm.stores.store_source import StoreSource, open_http

ASK_SECONDS: Final = 30.0  # without a byte; the hub's client would wait for ever
_URI = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


async def open_hub(
    uri: str,
    *,
    settings: StoreSettings | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> StoreSource:
    """The files of one commit: a branch is looked up now and does not move under the load.

    ``endpoint`` and ``token`` default to the hub client's own (HF_ENDPOINT, HF_TOKEN). Raises
    :class:`ModelNotFound`, :class:`Forbidden` and :class:`StoreUnavailable`.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise _no_name(uri)
    repository, revision = match[1], match[2]
    api = HfApi(endpoint=endpoint, token=token or get_token())
    try:
        info = await asyncio.to_thread(
            api.model_info,
            repository,
            revision=revision,
            files_metadata=True,
            timeout=ASK_SECONDS,
        )
    except HFValidationError as error:
        raise _no_name(uri) from error
    except GatedRepoError as error:
        raise Forbidden(
            f"{repository} is gated", where=uri, remedy="accept its terms, and give a token"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the hub shows no {repository}", where=uri, remedy="check the name, or give a token"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(
            f"{repository} has no revision {revision}", where=uri, remedy="check the revision"
        ) from error
    except Exception as error:  # of whatever HTTP library the hub's client is built on
        raise StoreUnavailable(f"the hub can't be asked for {repository}", where=uri) from error
    if info.sha is None:
        raise StoreUnavailable(f"the hub names no commit of {repository}", where=uri)
    headers = {"authorization": f"Bearer {api.token}"} if api.token else {}
    return open_http(
        f"{api.endpoint}/{repository}/resolve/{info.sha}",
        settings or StoreSettings(),
        headers=headers,
        revision=info.sha,
        sha256={one.rfilename: one.lfs.sha256 for one in info.siblings or () if one.lfs},
    )


def _no_name(uri: str) -> InvalidRequest:
    return InvalidRequest(
        f"{uri[:80]!r} names no model on a hub",
        where="source",
        remedy="write hf://OWNER/NAME or hf://OWNER/NAME@REVISION",
    )
