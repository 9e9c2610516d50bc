"""Keeps the view true: one watch on the metadata store, one task, one writer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from lite_llm.contracts import LiteLLMError
from lite_llm.contracts.keyspace import ROOT
from lite_llm.metastore import Store
from lite_llm.placement.observed import Observed
from lite_llm.placement.view import ClusterView, advanced

RETRY_SECONDS = 1.0  # a store that refuses us is asked again at the pace at which a person fixes it

log = structlog.get_logger(__name__)


@asynccontextmanager
async def watching(store: Store) -> AsyncIterator[Observed[ClusterView]]:
    """The view, fed while the block runs; empty until the store has answered."""
    views = Observed(ClusterView())
    task = asyncio.create_task(_feed(views, store), name="view of the cluster")
    try:
        yield views
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _feed(views: Observed[ClusterView], store: Store) -> None:
    while True:
        try:
            async with store.watch(ROOT) as events:
                async for event in events:
                    views.set(advanced(views.value, event))
            log.warning("watch ended")
        except LiteLLMError as error:
            log.warning("watch failed", error=str(error))
        except Exception:  # a view that stands still in silence would be worse
            log.exception("watch failed")
        await asyncio.sleep(RETRY_SECONDS)
