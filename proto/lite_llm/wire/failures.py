"""Errors across gRPC: raised as ours on one side, raised as ours again on the other.

The status carries the code and the message; the trailing metadata ``lite-llm-error-bin`` carries an
``ErrorDetail`` with everything else, so that nothing an error says is lost on its way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
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

log = structlog.get_logger(__name__)

# For answers from servers that are not ours, or from gRPC itself, which carry no detail.
_FROM_CODE: dict[grpc.StatusCode, type[LiteLLMError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.AgentLost,
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
        message=error.message,
        where=error.where,
        remedy=error.remedy,
        recoverable=error.recoverable,
        retry_after_seconds=error.retry_after,
    )


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    """End the call with ``error``. One that is not ours is logged whole and told as Internal."""
    if not isinstance(error, LiteLLMError):
        log.error("call failed", exc_info=error)
        error = errors.Internal(
            f"{type(error).__name__} in the server",
            remedy="see the server's log, and report it as a fault",
        )
    await context.abort(
        grpc.StatusCode[outcome_of(error).grpc],
        str(error),
        trailing_metadata=((DETAIL, detail_of(error).SerializeToString()),),
    )


def error_from(rpc_error: grpc.aio.AioRpcError, *, where: str) -> LiteLLMError:
    """Our error behind a failed call; ``where`` names the peer if the error names nothing."""
    for key, value in rpc_error.trailing_metadata() or ():
        if key == DETAIL and isinstance(value, bytes):
            try:
                detail = ErrorDetail.FromString(value)
            except DecodeError:
                break
            return error_class(detail.reason)(
                detail.message,
                where=detail.where or where,
                remedy=detail.remedy,
                retry_after=detail.retry_after_seconds,
            )
    kind = _FROM_CODE.get(rpc_error.code(), errors.Internal)
    return kind(f"{rpc_error.code().name}: {rpc_error.details()}", where=where)


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
        if handler.response_streaming:
            kind = "stream_stream" if handler.request_streaming else "unary_stream"
            return handler._replace(**{kind: _failing_stream(getattr(handler, kind))})
        kind = "stream_unary" if handler.request_streaming else "unary_unary"
        return handler._replace(**{kind: _failing_call(getattr(handler, kind))})


def _failing_call(behaviour: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error)

    return call


def _failing_stream(behaviour: Callable[..., Any]) -> Callable[..., AsyncIterator[Any]]:
    async def stream(
        request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        try:
            async for answer in behaviour(request, context):
                yield answer
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await abort(context, error)

    return stream
