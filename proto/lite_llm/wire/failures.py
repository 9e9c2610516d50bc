"""Errors across gRPC: raised as ours on one side, raised as ours again on the other.

The status carries the code and the message; the trailing metadata ``lite-llm-error-bin`` carries an
``ErrorDetail`` with everything else, so that nothing an error says is lost on its way.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from lite_llm.contracts import errors
from lite_llm.contracts.errors import LiteLLMError
from lite_llm.contracts.outcomes import error_class, outcome_of
from lite_llm.proto.v1.error_pb2 import ErrorDetail

DETAIL = "lite-llm-error-bin"
MAX_WORDS = 1000  # bytes of each text: peers refuse trailing metadata of more than 8 KiB in all

log = structlog.get_logger(__name__)

# For answers from servers that are not ours, or from gRPC itself, which carry no detail.
_FROM_CODE: dict[grpc.StatusCode, type[LiteLLMError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.AgentLost,
    grpc.StatusCode.INTERNAL: errors.AgentLost,  # gRPC's own words for a peer that died in a call
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.Forbidden,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.DATA_LOSS: errors.Corrupt,
}


def detail_of(error: LiteLLMError) -> ErrorDetail:
    """What the trailing metadata says of ``error``."""
    return ErrorDetail(
        reason=outcome_of(error).reason,
        message=_clipped(error.message),
        where=_clipped(error.where),
        remedy=_clipped(error.remedy),
        recoverable=error.recoverable,
        retry_after_seconds=error.retry_after,
    )


def _clipped(text: str) -> str:
    # Lone surrogates, as in undecodable file names, have no place in a message either.
    encoded = text.encode(errors="replace")
    return encoded[:MAX_WORDS].decode(errors="ignore") + "…" * (len(encoded) > MAX_WORDS)


def own(error: Exception | asyncio.CancelledError) -> LiteLLMError:
    """``error`` as callers hear of it. One that is not ours is logged whole and told as Internal.

    Work that was cancelled within the server is told as AgentLost: the caller may try again.
    """
    if isinstance(error, LiteLLMError):
        return error
    if isinstance(error, NotImplementedError):  # what a generated base class raises
        return errors.Unsupported(
            "this version does not have the method", remedy="use a later version of the server"
        )
    log.error("call failed", exc_info=error)
    cancelled = isinstance(error, asyncio.CancelledError)
    return (errors.AgentLost if cancelled else errors.Internal)(
        f"{type(error).__name__} in the server",
        remedy="see the server's log, and report it as a fault",
    )


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], error: Exception | asyncio.CancelledError
) -> NoReturn:
    """End the call with ``error``, as :func:`own` tells it."""
    error = own(error)
    await context.abort(
        grpc.StatusCode[outcome_of(error).grpc],
        _clipped(str(error)),
        trailing_metadata=((DETAIL, detail_of(error).SerializeToString()),),
    )


def error_of(detail: ErrorDetail, *, where: str) -> LiteLLMError:
    """The error that ``detail`` tells of; ``where`` names the peer if the error names nothing."""
    return error_class(detail.reason)(
        detail.message,
        where=detail.where or where,
        remedy=detail.remedy,
        retry_after=detail.retry_after_seconds,
    )


def error_from(rpc_error: grpc.aio.AioRpcError, *, where: str) -> LiteLLMError:
    """Our error behind a failed call; ``where`` names the peer if the error names nothing."""
    for key, value in rpc_error.trailing_metadata() or ():
        if key == DETAIL and isinstance(value, bytes):
            try:
                detail = ErrorDetail.FromString(value)
            except DecodeError:
                break
            return error_of(detail, where=where)
    kind = _FROM_CODE.get(rpc_error.code(), errors.Internal)
    words = rpc_error.details() or "no details given"
    return kind(f"{rpc_error.code().name}: {words}", where=where)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Lets every handler simply raise: what it raises becomes the call's status."""

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        requests = "stream" if handler.request_streaming else "unary"
        kind = f"{requests}_{'stream' if handler.response_streaming else 'unary'}"
        behaviour = getattr(handler, kind)
        # A stream may also be a coroutine that writes to its context, as health's Watch is.
        failing = _failing_stream if inspect.isasyncgenfunction(behaviour) else _failing_call
        return handler._replace(**{kind: failing(behaviour)})


def _withdrawn(error: BaseException) -> bool:
    # A handler can also meet the cancellation of something it awaits. gRPC takes that for the
    # caller's, sends no status, and the caller waits for ever (grpcio 1.85).
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and bool(task and task.cancelling())


def _failing_call(behaviour: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if _withdrawn(error):
                raise
            await abort(context, error)

    return call


def _failing_stream(behaviour: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
    async def stream(
        request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        try:
            # Closed here, not when the garbage is collected: handlers hold slots and memory.
            async with aclosing(behaviour(request, context)) as answers:
                async for answer in answers:
                    yield answer
        except grpc.aio.AbortError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if _withdrawn(error):
                raise
            await abort(context, error)

    return stream
