"""Object stores by address, and their faults in our words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from obstore import exceptions
from obstore.store import HTTPStore, LocalStore, ObjectStore, from_url

from lite_llm.contracts.errors import (
    Forbidden,
    InvalidRequest,
    LiteLLMError,
    ModelNotFound,
    StoreUnavailable,
    Unauthenticated,
)

CLIENT: Any = {
    "connect_timeout": timedelta(seconds=10),
    "timeout": timedelta(hours=1),  # of a whole answer: stalls are ours to notice
    "allow_http": True,
}
RETRIES: Any = {"max_retries": 5, "retry_timeout": timedelta(minutes=2)}

FAULTS = (exceptions.BaseError, OSError, TimeoutError)
"""What an operation on a store may raise."""


def open_bucket(uri: str, options: Mapping[str, str]) -> ObjectStore:
    """What is behind ``s3://``, ``az://``, ``gs://``, ``http(s)://`` or ``file://``.

    ``options`` are obstore's for the scheme. Raises :class:`InvalidRequest` for anything else.
    """
    scheme = urlsplit(uri).scheme
    try:
        if scheme == "file":
            path = Path(unquote(urlsplit(uri).path))
            return LocalStore(path, automatic_cleanup=True, mkdir=True)
        if scheme in ("http", "https"):
            headers = {"default_headers": dict(options)}
            return HTTPStore.from_url(uri, client_options=CLIENT | headers, retry_config=RETRIES)
        if scheme in ("s3", "az", "gs"):
            store: ObjectStore = from_url(
                uri, config=dict(options), client_options=CLIENT, retry_config=RETRIES
            )  # type: ignore[call-overload]  # the overloads differ by scheme, which is in the text
            return store
    except (exceptions.BaseError, ValueError) as error:
        raise InvalidRequest(
            f"{uri[:80]} can't be opened: {first_line(error)}",
            where="source",
            remedy="see the options",
        ) from error
    raise InvalidRequest(
        f"no store is known for {uri[:80]!r}",
        where="source",
        remedy="use file://, s3://, az://, gs://, http://, https:// or hf://",
    )


def failure(what: str, error: Exception) -> LiteLLMError:
    """``error`` of an operation on ``what``, in our words."""
    match error:
        case exceptions.NotFoundError() | FileNotFoundError():
            return ModelNotFound(
                f"{what} does not exist", where=what, remedy="check the model's source"
            )
        case exceptions.PermissionDeniedError():
            return Forbidden(f"the store refuses {what}", where=what, remedy="check its policy")
        case exceptions.UnauthenticatedError():
            return Unauthenticated(
                f"the store wants credentials for {what}", where=what, remedy="give some"
            )
    return StoreUnavailable(
        f"{what} can't be reached: {first_line(error)}", where=what, remedy="look at the store"
    )


def first_line(error: Exception) -> str:
    """Of its words; stores answer with pages of them."""
    return (str(error) or type(error).__name__).partition("\n")[0][:300]
