"""Signed addresses that came with orders to load: kept in memory alone, while they open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lite_llm.agent.sources import pinned_uri
from lite_llm.proto.v1.agent_pb2 import LoadRequest
from lite_llm.stores import SignedSource


@dataclass(frozen=True)
class _Signed:
    urls: Mapping[str, str]
    until: float


class SignedAddresses:
    """By the source whose files they open."""

    def __init__(self) -> None:
        self._signed: dict[str, _Signed] = {}

    def learn(self, request: LoadRequest) -> None:
        """Of what the request brings, if anything; older addresses of its source are forgotten."""
        for uri in [each for each in self._signed if self.source(each) is None]:
            del self._signed[uri]
        if request.signed_files:
            urls = {file.name: file.url for file in request.signed_files}
            self._signed[pinned_uri(request.spec.source)] = _Signed(urls, request.signed_until)

    def source(self, uri: str) -> SignedSource | None:
        """What opens ``uri`` without credentials; None where nobody signed, or not for so long."""
        signed = self._signed.get(uri)
        if signed is None:
            return None
        source = SignedSource(uri, signed.urls, signed.until)
        return None if source.has_expired else source
