"""What each of etcd's failures means to us."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from lite_llm.contracts.errors import (
    InvalidRequest,
    InvalidSettings,
    LeaseLost,
    StoreUnavailable,
)
from lite_llm.metastore.connection import PAUSE_SECONDS, pause_seconds
from lite_llm.metastore.failures import RevisionUnavailable, Verdict, error_of, verdict_of
from lite_llm.metastore.messages import decode_key, encode_key, prefix_range

# etcd's own codes and texts, from api/v3rpc/rpctypes/error.go
CASES = [
    (StatusCode.UNAVAILABLE, "etcdserver: no leader", Verdict.REFUSED, StoreUnavailable),
    (StatusCode.UNAVAILABLE, "etcdserver: request timed out", Verdict.BROKEN, StoreUnavailable),
    (StatusCode.UNAVAILABLE, "etcdserver: leader changed", Verdict.BROKEN, StoreUnavailable),
    (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Verdict.BROKEN, StoreUnavailable),
    (StatusCode.UNKNOWN, "Stream removed", Verdict.BROKEN, StoreUnavailable),
    (StatusCode.INTERNAL, "", Verdict.BROKEN, StoreUnavailable),
    (
        StatusCode.RESOURCE_EXHAUSTED,
        "etcdserver: too many requests",
        Verdict.REFUSED,
        StoreUnavailable,
    ),
    (
        StatusCode.RESOURCE_EXHAUSTED,
        "etcdserver: mvcc: database space exceeded",
        Verdict.FINAL,
        StoreUnavailable,
    ),
    (
        StatusCode.RESOURCE_EXHAUSTED,
        "grpc: received message larger than max",
        Verdict.FINAL,
        InvalidRequest,
    ),
    (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: request is too large",
        Verdict.FINAL,
        InvalidRequest,
    ),
    (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: user name is empty",
        Verdict.LOG_IN,
        InvalidSettings,
    ),
    (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: revision of auth store is old",
        Verdict.LOG_IN,
        InvalidRequest,
    ),
    (
        StatusCode.UNAUTHENTICATED,
        "etcdserver: invalid auth token",
        Verdict.LOG_IN,
        InvalidSettings,
    ),
    (
        StatusCode.PERMISSION_DENIED,
        "etcdserver: permission denied",
        Verdict.FINAL,
        InvalidSettings,
    ),
    (
        StatusCode.NOT_FOUND,
        "etcdserver: requested lease not found",
        Verdict.FINAL,
        LeaseLost,
    ),
    (
        StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
        Verdict.FINAL,
        RevisionUnavailable,
    ),
]


@pytest.mark.parametrize(("code", "details", "verdict", "kind"), CASES)
def test_every_failure_is_judged_and_translated(
    code: StatusCode, details: str, verdict: Verdict, kind: type[Exception]
) -> None:
    error = AioRpcError(code, Metadata(), Metadata(), details=details)
    assert verdict_of(error) is verdict
    assert type(error_of(error, where="etcd:2379")) is kind


@pytest.mark.parametrize(("word", "compacted"), [("compacted", True), ("in the future", False)])
def test_a_revision_is_gone_or_not_yet_there(word: str, compacted: bool) -> None:
    assert RevisionUnavailable(f"required revision is {word}").compacted is compacted


def test_pauses_grow_to_a_limit_and_are_spread() -> None:
    shortest, longest = PAUSE_SECONDS
    for attempt in range(2000):
        assert shortest / 2 <= pause_seconds(attempt) <= longest
    assert pause_seconds(1000) >= longest / 2
    assert len({pause_seconds(5) for _ in range(10)}) > 1


@pytest.mark.parametrize(
    ("prefix", "start", "end"),
    [
        ("a/", b"a/", b"a0"),
        ("", b"\0", b"\0"),
        ("é", "é".encode(), b"\xc3\xaa"),
        ("a\udcff", b"a\xff", b"b"),
        ("\udcff", b"\xff", b"\0"),
    ],
)
def test_the_range_of_a_prefix(prefix: str, start: bytes, end: bytes) -> None:
    assert prefix_range(prefix) == (start, end)


@pytest.mark.parametrize("key", [b"plain", "é".encode(), b"\xff\xfe", b"\0"])
def test_foreign_keys_survive(key: bytes) -> None:
    assert encode_key(decode_key(key)) == key
