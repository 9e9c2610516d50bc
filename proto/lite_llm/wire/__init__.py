"""How programs talk: gRPC servers and channels, errors across them, messages as stored values."""

from lite_llm.wire.endpoints import Endpoint, TlsFiles, closing_call, open_channel, serving
from lite_llm.wire.failures import abort, error_from, error_of
from lite_llm.wire.line import Generation, Line, Refused
from lite_llm.wire.multiplexed import Multiplexed
from lite_llm.wire.requests import at_end_of, cancel_when_asked, start_of
from lite_llm.wire.values import dumps, loads, ref_from_proto, ref_to_proto

__all__ = [
    "Endpoint",
    "Generation",
    "Line",
    "Multiplexed",
    "Refused",
    "TlsFiles",
    "abort",
    "at_end_of",
    "cancel_when_asked",
    "closing_call",
    "dumps",
    "error_from",
    "error_of",
    "loads",
    "open_channel",
    "ref_from_proto",
    "ref_to_proto",
    "serving",
    "start_of",
]
