"""What the commands ask an orchestrator, over HTTP with the standard library alone."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from lite_llm.contracts import LiteLLMError
from lite_llm.contracts.errors import BackendFailed, InvalidSettings, Unreachable
from lite_llm.contracts.outcomes import OUTCOMES

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0
"""Without a byte, while an answer is streamed: held requests hear a comment every 10 s."""

_BY_CODE = {outcome.code: kind for kind, outcome in OUTCOMES.items()}


@dataclass(frozen=True)
class Door:
    """One orchestrator, at ``url``, asked with the API key ``key``."""

    url: str
    key: str = ""

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """The JSON at ``path``; refusals are raised as the errors that they tell of."""
        words = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        connection, answer = self._asked("GET", f"{path}?{words}" if words else path)
        try:
            found: dict[str, Any] = json.loads(answer.read())
        except (ValueError, OSError, http.client.HTTPException) as error:
            raise self._strange(error) from error
        finally:
            connection.close()
        return found

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed answer; close the iterator to withdraw the request."""
        connection, answer = self._asked("POST", path, {**body, "stream": True})
        try:
            for line in answer:
                if not line.startswith(b"data: "):
                    continue
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    return
                chunk = json.loads(data)
                if "error" in chunk:
                    raise _told(chunk["error"])
                yield chunk
            raise http.client.HTTPException("it has no end")  # a lost line looks like the end
        except (ValueError, OSError, http.client.HTTPException) as error:
            raise self._strange(error) from error
        finally:
            connection.close()

    def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connection()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            if body is None:
                connection.request(method, path, headers=headers)
            else:
                headers["Content-Type"] = "application/json"
                connection.request(method, path, json.dumps(body), headers)
            if connection.sock is not None:
                connection.sock.settimeout(SILENCE_SECONDS)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(
                f"nobody answers at {self.url}: {error or type(error).__name__}",
                where="--url",
                remedy="start one with `lite-llm up`, or give the address of yours",
            ) from error
        if answer.status < 400:
            return connection, answer
        try:
            refusal = dict(json.loads(answer.read())["error"])
        except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
            refusal = {"message": f"{answer.status} {answer.reason} from {self.url}{path}"}
        finally:
            connection.close()
        raise _told(refusal)

    def _connection(self) -> http.client.HTTPConnection:
        wrong = InvalidSettings(
            f"{self.url!r} is no address", where="--url", remedy="write http://host:8080"
        )
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise wrong from error
        if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/"):
            raise wrong
        kind = http.client.HTTPSConnection if parts.scheme == "https" else None
        return (kind or http.client.HTTPConnection)(host, port, timeout=CONNECT_SECONDS)

    def _strange(self, error: Exception) -> LiteLLMError:
        return BackendFailed(
            f"the answer of {self.url} broke off: {error or type(error).__name__}",
            where="--url",
            remedy="ask again",
        )


def _told(refusal: Mapping[str, Any]) -> LiteLLMError:
    """The error of our tree that OpenAI's shape tells of."""
    kind = _BY_CODE.get(str(refusal.get("code")), BackendFailed)
    return kind(str(refusal.get("message") or refusal), where=str(refusal.get("param") or ""))
