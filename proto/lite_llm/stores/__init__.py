"""Where checkpoints come from: local directories, object stores and hubs behind one interface."""

from lite_llm.stores.buckets import open_bucket, refusal
from lite_llm.stores.failures import ReadFailed, ShortRead, read_failed
from lite_llm.stores.listing import Listing, list_checkpoint
from lite_llm.stores.local_digest import digest_of_directory
from lite_llm.stores.opening import open_source
from lite_llm.stores.patient_source import StoreSettings
from lite_llm.stores.retrying import Backoff
from lite_llm.stores.signed_source import SignedSource
from lite_llm.stores.source import FileStatus, LocalSource, Origin, Source
from lite_llm.stores.store_source import StoreSource, open_store

__all__ = [
    "Backoff",
    "FileStatus",
    "Listing",
    "LocalSource",
    "Origin",
    "ReadFailed",
    "ShortRead",
    "SignedSource",
    "Source",
    "StoreSettings",
    "StoreSource",
    "digest_of_directory",
    "list_checkpoint",
    "open_bucket",
    "open_source",
    "open_store",
    "read_failed",
    "refusal",
]
