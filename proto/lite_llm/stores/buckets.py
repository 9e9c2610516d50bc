"""Object stores by address, and their refusals in our words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from obstore import exceptions
from obstore.store import LocalStore, ObjectStore, from_url

from lite_llm.contracts.errors import Forbidden, InvalidRequest, LiteLLMError, Unauthenticated
from lite_llm.stores.failures import ReadFailed

CLIENT: Final[Any] = {
    "connect_timeout": timedelta(seconds=10),
    "timeout": timedelta(hours=1),  # of a whole answer: stalls are ours to notice
    "allow_http": True,
    "default_headers": {},
}

FAULTS: Final = (exceptions.BaseError, OSError, TimeoutError)
"""What an operation on a store may raise."""


def open_bucket(uri: str, options: Mapping[str, str], *, retries: int = 0) -> ObjectStore:
    """What is behind ``s3://``, ``az://``, ``gs://`` or, for writing, ``file://``.

    ``options`` are obstore's settings for the scheme, such as ``endpoint`` or credentials; what is
    not given comes from where the cloud's own tools look. Raises :class:`InvalidRequest`.
    """
    scheme = urlsplit(uri).scheme
    if scheme not in ("s3", "az", "gs", "file"):
        raise InvalidRequest(
            f"no store is known for {uri[:80]!r}",
            where="source",
            remedy="use file://, s3://, az://, gs://, http://, https:// or hf://",
        )
    retry: Any = {"max_retries": retries}
    try:
        if scheme == "file":
            return LocalStore(Path(unquote(urlsplit(uri).path)), mkdir=True)
        store: ObjectStore = from_url(
            uri, config=dict(options), client_options=CLIENT, retry_config=retry
        )  # type: ignore[call-overload]  # the overloads differ by scheme, which is in the text
    except (*FAULTS, ValueError) as error:
        raise InvalidRequest(
            f"{uri} can't be opened: {first_line(error)}", where="source", remedy="see the options"
        ) from error
    return store


def refusal(what: str, error: Exception) -> LiteLLMError | None:
    """``error`` of an operation on ``what``, if it is one that no retry will mend."""
    match error:
        case exceptions.NotFoundError() | FileNotFoundError():
            return ReadFailed(f"{what} does not exist", where=what, remedy="check the source")
        case exceptions.PermissionDeniedError():
            return Forbidden(f"the store refuses {what}", where=what, remedy="check its policy")
        case exceptions.UnauthenticatedError():
            return Unauthenticated(
                f"the store wants credentials for {what}", where=what, remedy="give some"
            )
    return None


def first_line(error: Exception) -> str:
    """Of its words; stores answer with pages of them."""
    return (str(error) or type(error).__name__).partition("\n")[0]
