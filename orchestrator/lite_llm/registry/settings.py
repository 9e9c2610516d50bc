"""Everything that can be set about ingestion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from lite_llm.contracts.errors import InvalidSettings

SCHEMES = ("s3", "az", "gs", "file")


@dataclass(frozen=True, kw_only=True)
class RegistrySettings:
    """Of one orchestrator; checked when made."""

    stores: tuple[str, ...]
    """Addresses that checkpoints are put under: primary, secondary, tertiary."""
    scratch: Path
    """Of this machine; holds a model's source and its checkpoint while it is ingested."""
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By scheme, for the store's client: ``{"s3": {"endpoint": …}, "hf": {"token": …}}``. What is
    not given comes from where the cloud's own tools look."""
    jobs: int = 2
    """Models at a time."""
    lease_seconds: float = 10.0
    """An orchestrator that died in the middle is followed by another after this long."""
    first_retry_seconds: float = 5.0
    longest_retry_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not self.stores:
            raise InvalidSettings("no store is named", where="stores", remedy="name at least one")
        for store in self.stores:
            if urlsplit(store).scheme not in SCHEMES:
                raise InvalidSettings(
                    f"{store[:80]!r} can't be written to",
                    where="stores",
                    remedy=f"use one of {', '.join(scheme + '://' for scheme in SCHEMES)}",
                )
        for name in ("jobs", "lease_seconds", "first_retry_seconds", "longest_retry_seconds"):
            if getattr(self, name) <= 0:
                raise InvalidSettings(
                    f"{name} is {getattr(self, name)!r}", where=name, remedy="make it positive"
                )

    def options_for(self, uri: str) -> Mapping[str, str]:
        """For the client that opens ``uri``."""
        return self.options.get(uri.partition("://")[0].lower(), {})

    def retry_seconds(self, failures: int) -> float:
        """After so many failures in a row."""
        return min(self.first_retry_seconds * 2.0 ** (failures - 1), self.longest_retry_seconds)
