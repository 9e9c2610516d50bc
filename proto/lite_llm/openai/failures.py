"""Whatever goes wrong leaves in OpenAI's error shape."""

from __future__ import annotations

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from lite_llm.contracts import LiteLLMError, outcome_of
from lite_llm.contracts.errors import Internal
from lite_llm.contracts.outcomes import openai_error, retry_after_header

log = structlog.get_logger(__name__)


def told(error: Exception) -> LiteLLMError:
    """What a client hears of ``error``: ours as it is, anything else is logged and Internal."""
    if isinstance(error, LiteLLMError):
        return error
    log.error("request failed", exc_info=error)
    return Internal(
        f"{type(error).__name__} in the server",
        remedy="see the server's log, and report it as a fault",
    )


def error_body(error: LiteLLMError) -> bytes:
    """The JSON that clients get."""
    return msgspec.json.encode(openai_error(error))


@web.middleware
async def in_openai_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers with an error instead of raising it."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _of_http(error, request)
    except ConnectionError:  # the client is gone: nobody is left to tell
        raise
    except Exception as error:
        return _of_ours(told(error))


def _of_ours(error: LiteLLMError) -> web.Response:
    retry_after = retry_after_header(error)
    return web.Response(
        status=outcome_of(error).http,
        headers={"Retry-After": retry_after} if retry_after else None,
        body=error_body(error),
        content_type="application/json",
    )


def _of_http(error: web.HTTPException, request: web.Request) -> web.Response:
    # aiohttp's own refusals: unknown paths and methods, bodies beyond the limit.
    message = error.text or error.reason
    if isinstance(error, web.HTTPNotFound | web.HTTPMethodNotAllowed):
        message = f"there is no {request.method} {request.path[:200]}"
    body = {
        "error": {
            "message": message,
            "type": "invalid_request_error",
            "param": None,
            "code": error.reason.lower().replace(" ", "_"),
        }
    }
    allow = error.headers.get("Allow")
    return web.Response(
        status=error.status,
        headers={"Allow": allow} if allow else None,
        body=msgspec.json.encode(body),
        content_type="application/json",
    )
