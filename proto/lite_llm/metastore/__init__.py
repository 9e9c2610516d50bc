"""The metadata store: watched keys, transactions, leases, leader election; in etcd or in memory."""

from lite_llm.metastore.election import Leadership, leading
from lite_llm.metastore.lease import Lease
from lite_llm.metastore.measured import MeasuredStore
from lite_llm.metastore.memory import MemoryStore
from lite_llm.metastore.opening import open_store
from lite_llm.metastore.settings import StoreSettings, StoreTls
from lite_llm.metastore.store import (
    Absent,
    AtRevision,
    Compare,
    Delete,
    Deleted,
    Entry,
    Event,
    HasValue,
    Listing,
    Operation,
    Put,
    Snapshot,
    SnapshotCause,
    Store,
    TransactionResult,
    Written,
)

__all__ = [
    "Absent",
    "AtRevision",
    "Compare",
    "Delete",
    "Deleted",
    "Entry",
    "Event",
    "HasValue",
    "Leadership",
    "Lease",
    "Listing",
    "MeasuredStore",
    "MemoryStore",
    "Operation",
    "Put",
    "Snapshot",
    "SnapshotCause",
    "Store",
    "StoreSettings",
    "StoreTls",
    "TransactionResult",
    "Written",
    "leading",
    "open_store",
]
