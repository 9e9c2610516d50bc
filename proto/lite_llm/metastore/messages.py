"""Our values as etcd's messages and back; only this file touches aetcd, whose stubs lack types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import grpc.aio
from aetcd import rpc

from lite_llm.metastore.lease import Grant
from lite_llm.metastore.store import (
    Absent,
    AtRevision,
    Compare,
    Delete,
    Deleted,
    Entry,
    HasValue,
    Operation,
    Put,
    TransactionResult,
    Written,
)

Message = Any
"""A protobuf message of etcd's; nothing outside this room sees one."""

Method = Literal["Range", "Put", "DeleteRange", "Txn", "LeaseGrant", "LeaseRevoke", "Authenticate"]

_EQUAL: Final = rpc.Compare.EQUAL
_TARGET: Final = rpc.Compare.CompareTarget


def unary_calls(channel: grpc.aio.Channel) -> Mapping[Method, Callable[..., Any]]:
    """The calls with one answer each."""
    kv, lease, auth = rpc.KVStub(channel), rpc.LeaseStub(channel), rpc.AuthStub(channel)
    return {
        "Range": kv.Range,
        "Put": kv.Put,
        "DeleteRange": kv.DeleteRange,
        "Txn": kv.Txn,
        "LeaseGrant": lease.LeaseGrant,
        "LeaseRevoke": lease.LeaseRevoke,
        "Authenticate": auth.Authenticate,
    }


def watch_call(channel: grpc.aio.Channel) -> Callable[..., Any]:
    """The stream of watches."""
    call: Callable[..., Any] = rpc.WatchStub(channel).Watch
    return call


def keep_alive_call(channel: grpc.aio.Channel) -> Callable[..., Any]:
    """The stream of renewals."""
    call: Callable[..., Any] = rpc.LeaseStub(channel).LeaseKeepAlive
    return call


def encode_key(key: str) -> bytes:
    """Bytes of a key. Keys that others wrote and that are not UTF-8 survive the round trip."""
    return key.encode("utf-8", "surrogateescape")


def decode_key(key: bytes) -> str:
    """The inverse of :func:`encode_key`."""
    return key.decode("utf-8", "surrogateescape")


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """First key, and first key behind, of all that start with ``prefix``, as etcd wants them."""
    start = encode_key(prefix)
    stem = start.rstrip(b"\xff")
    end = stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"  # a lone zero byte: without end
    return start or b"\0", end


def get_request(key: str, *, revision: int = 0) -> Message:
    """Read one key as it was at ``revision``; 0: as it is."""
    return rpc.RangeRequest(key=encode_key(key), revision=revision)


def list_request(prefix: str) -> Message:
    """Read a prefix, sorted by key."""
    start, end = prefix_range(prefix)
    return rpc.RangeRequest(key=start, range_end=end)


def newest_request(prefix: str, *, revision: int) -> Message:
    """Read the entry of a prefix that had been written last at ``revision``."""
    start, end = prefix_range(prefix)
    return rpc.RangeRequest(
        key=start,
        range_end=end,
        revision=revision,
        limit=1,
        sort_order=rpc.RangeRequest.DESCEND,
        sort_target=rpc.RangeRequest.MOD,
    )


def put_request(key: str, value: bytes, lease_id: int) -> Message:
    """Write one key."""
    return rpc.PutRequest(key=encode_key(key), value=value, lease=lease_id)


def delete_request(key: str) -> Message:
    """Remove one key."""
    return rpc.DeleteRangeRequest(key=encode_key(key))


def txn_request(when: Sequence[Compare], then: Sequence[Operation]) -> Message:
    """A transaction that reads the compared keys if it fails."""
    return rpc.TxnRequest(
        compare=[_compare(compare) for compare in when],
        success=[_operation(operation) for operation in then],
        failure=[rpc.RequestOp(request_range=get_request(compare.key)) for compare in when],
    )


def _compare(compare: Compare) -> Message:
    key = encode_key(compare.key)
    match compare:
        case Absent():
            return rpc.Compare(result=_EQUAL, target=_TARGET.CREATE, key=key, create_revision=0)
        case AtRevision(_, revision):
            return rpc.Compare(result=_EQUAL, target=_TARGET.MOD, key=key, mod_revision=revision)
        case HasValue(_, value):
            return rpc.Compare(result=_EQUAL, target=_TARGET.VALUE, key=key, value=value)


def _operation(operation: Operation) -> Message:
    match operation:
        case Put(key, value, lease):
            put = put_request(key, value, lease.id if lease else 0)
            return rpc.RequestOp(request_put=put)
        case Delete(key):
            return rpc.RequestOp(request_delete_range=delete_request(key))


def grant_request(ttl_seconds: int) -> Message:
    """A new lease."""
    return rpc.LeaseGrantRequest(TTL=ttl_seconds)


def renew_request(lease_id: int) -> Message:
    """Start a lease's time anew."""
    return rpc.LeaseKeepAliveRequest(ID=lease_id)


def revoke_request(lease_id: int) -> Message:
    """End a lease."""
    return rpc.LeaseRevokeRequest(ID=lease_id)


def login_request(user: str, password: str) -> Message:
    """Ask for a token."""
    return rpc.AuthenticateRequest(name=user, password=password)


def watch_request(prefix: str, from_revision: int) -> Message:
    """Begin a watch."""
    start, end = prefix_range(prefix)
    create = rpc.WatchCreateRequest(key=start, range_end=end, start_revision=from_revision)
    return rpc.WatchRequest(create_request=create)


def entry_from(kv: Message) -> Entry:
    """An entry out of etcd's ``KeyValue``."""
    return Entry(
        decode_key(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease
    )


def first_entry(response: Message) -> Entry | None:
    """What a read of one key found."""
    return entry_from(response.kvs[0]) if response.kvs else None


def grant_from(response: Message) -> Grant:
    """The answer to a grant or a renewal."""
    return Grant(response.ID, float(response.TTL))


def result_from(response: Message) -> TransactionResult:
    """The answer to a transaction made by :func:`txn_request`."""
    if response.succeeded:
        return TransactionResult(True, response.header.revision)
    found = tuple(first_entry(part.response_range) for part in response.responses)
    return TransactionResult(False, response.header.revision, found)


def events_from(response: Message) -> list[Written | Deleted]:
    """The events of one answer on a watch's stream."""
    return [
        Deleted(decode_key(event.kv.key), event.kv.mod_revision)
        if event.type == rpc.Event.DELETE
        else Written(entry_from(event.kv))
        for event in response.events
    ]
