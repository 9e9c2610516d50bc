"""The connection to a foreign server: its HTTP in, our errors out."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Final, Self

import aiohttp

from lite_llm.backends.event_stream import events
from lite_llm.backends.interface import Call
from lite_llm.contracts.errors import (
    AgentLost,
    BackendFailed,
    DeadlineExceeded,
    InvalidRequest,
    LiteLLMError,
    Overloaded,
)

PROBE_SECONDS: Final = 10.0  # for an answer to "are you ready"; a busy one takes a while
CALL_SECONDS: Final = 60.0  # for a small call: a template, a property
MAX_ANSWER_BYTES: Final = 64 << 20  # of an answer that comes whole
MAX_WORDS: Final = 500  # characters of a server's own words that we pass on
DONE: Final = "[DONE]"


class Upstream:
    """One server, by its address; ``async with``."""

    def __init__(self, name: str, address: str, *, silence_seconds: float) -> None:
        """A stream that says nothing for ``silence_seconds`` is given up."""
        self._name = name
        kind, _, path = address.partition(":")
        # Not kept alive: a server may close an idle connection just when it is used again.
        connector: aiohttp.BaseConnector = (
            aiohttp.UnixConnector(path, force_close=True, limit=0)
            if kind == "unix"
            else aiohttp.TCPConnector(force_close=True, limit=0)
        )
        self._session = aiohttp.ClientSession(
            "http://localhost" if kind == "unix" else address,
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=silence_seconds),
            trust_env=False,  # no proxy is between us
        )

    async def is_ready(self, path: str) -> bool:
        """Whether it answers 200 there, now."""
        try:
            async with self._session.get(path, timeout=_within(PROBE_SECONDS)) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def get(self, path: str) -> Any:
        """The JSON at ``path``."""
        return _json(await self.text(path))

    async def text(self, path: str) -> str:
        """What is at ``path``."""
        with self._failures():
            async with self._session.get(path, timeout=_within(CALL_SECONDS)) as response:
                return await self._whole(response)
        raise AssertionError  # the failures never pass

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that answers ``body``."""
        with self._failures():
            async with self._session.post(
                path, json=dict(body), timeout=_within(CALL_SECONDS)
            ) as response:
                return _json(await self._whole(response))
        raise AssertionError  # the failures never pass

    async def stream(self, call: Call) -> AsyncGenerator[Mapping[str, Any]]:
        """The messages of an answer. Leaving it early closes the connection, which ends the work.

        Raises what the server says as ours: ``InvalidRequest``, ``Overloaded``, ``BackendFailed``
        for its own faults and for what is no answer; ``AgentLost`` when it hangs up and
        ``DeadlineExceeded`` when it falls silent.
        """
        with self._failures():
            async with self._session.post(call.path, json=dict(call.body)) as response:
                if response.status != 200 or not call.streams:
                    yield self._checked(_message(await self._whole(response)))
                    return
                async with aclosing(events(response.content.iter_any())) as found:
                    async for data in found:
                        if data == DONE:
                            return
                        yield self._checked(_message(data))

    async def _whole(self, response: aiohttp.ClientResponse) -> str:
        data = bytearray()
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > MAX_ANSWER_BYTES:
                raise BackendFailed(f"{self._name} answers more than {MAX_ANSWER_BYTES} bytes")
        text = data.decode(errors="replace")
        if response.status != 200:
            raise self._refusal(response.status, _words_of(text))
        return text

    def _checked(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if "error" not in message:
            return message
        error = message["error"]
        told = error if isinstance(error, dict) else message
        code = told.get("code")
        raise self._refusal(code if isinstance(code, int) else 500, _words_of(json.dumps(message)))

    def _refusal(self, status: int, words: str) -> LiteLLMError:
        if status in (400, 413, 422):
            return InvalidRequest(f"{self._name} refuses the request: {words}", where="request")
        if status in (429, 503):
            return Overloaded(f"{self._name} takes no more: {words}", retry_after=1.0)
        return BackendFailed(f"{self._name} answered {status}: {words}", where=self._name)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:  # aiohttp's own are among them
            raise DeadlineExceeded(f"{self._name} says nothing", where=self._name) from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            raise AgentLost(f"{self._name} hung up: {error}", where=self._name) from error
        except aiohttp.ClientError as error:
            raise BackendFailed(f"{self._name} speaks no HTTP: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()


def _within(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BackendFailed(f"an answer is no JSON: {error}") from error


def _message(text: str) -> Mapping[str, Any]:
    message = _json(text)
    if not isinstance(message, dict):
        raise BackendFailed("an answer is no JSON object")
    return message


def _words_of(text: str) -> str:
    """The message in an error's body, in whichever of the usual forms; else the body."""
    words: Any = text
    try:
        told = json.loads(text)
        error = told.get("error", told)
        words = (
            error.get("message", told.get("detail", error)) if isinstance(error, dict) else error
        )
    except (ValueError, RecursionError, AttributeError):
        pass
    return str(words)[:MAX_WORDS]
