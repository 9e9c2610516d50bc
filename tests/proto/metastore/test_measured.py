"""The store that is measured is the store within, and answers are timed by operation."""

from __future__ import annotations

import pytest

from lite_llm.contracts.errors import InvalidRequest
from lite_llm.metastore import Absent, Delete, MeasuredStore, MemoryStore, Put, Store
from lite_llm.telemetry import Metrics, Program, metrics_of, names


def counted(metrics: Metrics, operation: str) -> float:
    name = f"{names.METADATA_RTT_SECONDS.name}_count"
    return metrics.registry.get_sample_value(name, {"operation": operation}) or 0.0


async def test_operations_are_timed() -> None:
    metrics, inner = metrics_of(Program.AGENT), MemoryStore()
    store: Store = MeasuredStore(inner, metrics)
    async with store.lease(10.0) as lease:
        await store.put("/a", b"1", lease=lease)
    async with store.watch("/") as events:
        await anext(events)
    await store.put("/b", b"2")
    assert await store.get("/b") == await inner.get("/b")
    assert (await store.list_prefix("/")).entries == (await inner.list_prefix("/")).entries
    result = await store.transact(when=[Absent("/c")], then=[Put("/c", b"3"), Delete("/b")])
    assert result.succeeded
    assert await store.delete("/c")
    told = {each: counted(metrics, each) for each in ("get", "list", "put", "delete", "transact")}
    assert told == {"get": 1, "list": 1, "put": 2, "delete": 1, "transact": 1}
    inner.close()


async def test_refusals_are_not_answers() -> None:
    metrics, inner = metrics_of(Program.AGENT), MemoryStore()
    with pytest.raises(InvalidRequest):
        await MeasuredStore(inner, metrics).put("", b"")
    assert counted(metrics, "put") == 0
    inner.close()


@pytest.mark.parametrize("program", list(Program))
def test_a_program_tells_its_version(program: Program) -> None:
    (family,) = metrics_of(program).registry.restricted_registry([names.BUILD_INFO.name]).collect()
    assert [sample.value for sample in family.samples] == [1.0]
