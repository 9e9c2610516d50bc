"""Tracing costs nothing while it is off, and reaches a collector while it is on."""

import asyncio
import enum
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from lite_llm.telemetry import logs, traces

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector that keeps what it gets."""

    def __init__(self) -> None:
        self.services: set[str] = set()
        self.spans: dict[str, Span] = {}
        self.address = ""

    def Export(self, request: Any, context: object) -> Any:
        for resource in request.resource_spans:
            for attribute in resource.resource.attributes:
                if attribute.key == "service.name":
                    self.services.add(attribute.value.string_value)
            for scope in resource.scope_spans:
                self.spans.update({span.name: span for span in scope.spans})
        return trace_service_pb2.ExportTraceServiceResponse()


def attributes(span: Span) -> dict[str, object]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value") or "")
        for item in span.attributes
    }


@pytest.fixture(autouse=True)
def off_afterwards() -> Iterator[None]:
    yield
    traces.shutdown()


@pytest.fixture
def collector() -> Iterator[Collector]:
    kept = Collector()
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(kept, server)
        kept.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield kept
        traces.shutdown()
        server.stop(None).wait()


def test_off_is_one_object_and_no_import() -> None:
    program = """
import sys
from lite_llm.telemetry import traces
with traces.span("a", model="m") as outer, traces.span("b") as inner:
    outer.set(tokens=1)
assert outer is inner
assert traces.inject((("k", "v"),)) == (("k", "v"),)
assert traces.extract([("traceparent", "x")]) is None
assert traces.current_ids() == {}
traces.shutdown()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_spans_arrive_with_names_attributes_and_parents(collector: Collector) -> None:
    class Word(enum.IntEnum):
        ONE = 1

    traces.configure(collector.address, "agent")
    with traces.span("request", model="default/a", tokens=7, absent=None) as request:
        with traces.span("prefill", word=Word.ONE, odd=("x",)):
            pass
        request.set(seconds=0.5, cached=True)
    traces.shutdown()
    assert collector.services == {"agent"}
    outer, inner = collector.spans["request"], collector.spans["prefill"]
    assert inner.parent_span_id == outer.span_id
    assert inner.trace_id == outer.trace_id
    assert outer.parent_span_id == b""
    assert attributes(outer) == {"model": "default/a", "tokens": 7, "seconds": 0.5, "cached": True}
    assert attributes(inner) == {"word": 1, "odd": "('x',)"}
    assert outer.start_time_unix_nano <= inner.start_time_unix_nano <= inner.end_time_unix_nano


def test_what_is_over_is_one_trace_with_its_parts(collector: Collector) -> None:
    parts = [traces.Part("queue", 5_000, 6_000), traces.Part("read", 6_000, 9_000)]
    traces.record("off", parts)
    traces.configure(collector.address, "agent")
    parent = traces.extract([("traceparent", PARENT)])
    traces.record("start", parts, parent=parent, model="default/a")
    traces.record("nothing", [])
    traces.shutdown()
    assert set(collector.spans) == {"start", "queue", "read"}
    outer, queue, read = (collector.spans[name] for name in ("start", "queue", "read"))
    assert outer.parent_span_id.hex() == "b7ad6b7169203331"
    assert {queue.parent_span_id, read.parent_span_id} == {outer.span_id}
    assert {span.trace_id for span in (outer, queue, read)} == {outer.trace_id}
    times = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in (outer, queue, read)]
    assert times == [(5_000, 9_000), (5_000, 6_000), (6_000, 9_000)]
    assert attributes(outer) == {"model": "default/a"}


def test_an_error_is_marked_by_its_type_and_tells_no_words(collector: Collector) -> None:
    traces.configure(collector.address, "agent")
    with pytest.raises(ZeroDivisionError), traces.span("fails"):
        raise ZeroDivisionError("my diary")
    with pytest.raises(asyncio.CancelledError), traces.span("cancelled"):
        raise asyncio.CancelledError
    traces.shutdown()
    failed, cancelled = collector.spans["fails"], collector.spans["cancelled"]
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes(failed) == {"error.type": "ZeroDivisionError"}
    assert b"diary" not in failed.SerializeToString()
    assert cancelled.status.code == Status.STATUS_CODE_UNSET
    assert attributes(cancelled) == {"error.type": "CancelledError"}


def test_a_trace_goes_on_across_processes(collector: Collector) -> None:
    traces.configure(collector.address, "agent")
    with traces.span("gateway"):
        metadata = traces.inject((("tenant", "t"),))
    assert metadata[0] == ("tenant", "t")
    assert metadata[1][0] == "traceparent"
    arrived = (*metadata, ("lite-llm-error-bin", b"\xff"))
    with traces.span("agent", parent=traces.extract(arrived)):
        pass
    with traces.span("http", parent=traces.extract([("Traceparent", PARENT)])):
        pass
    traces.shutdown()
    gateway, agent, http = (collector.spans[name] for name in ("gateway", "agent", "http"))
    assert (agent.trace_id, agent.parent_span_id) == (gateway.trace_id, gateway.span_id)
    assert http.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert http.parent_span_id.hex() == "b7ad6b7169203331"


@pytest.mark.parametrize("header", ["", "x", "00-0-0-0", PARENT.replace("-", "_"), "é" * 500])
def test_a_malformed_parent_begins_a_trace(collector: Collector, header: str) -> None:
    traces.configure(collector.address, "agent")
    with traces.span("root", parent=traces.extract([("traceparent", header)])):
        pass
    traces.shutdown()
    assert collector.spans["root"].parent_span_id == b""


async def test_tasks_keep_their_own_parents(collector: Collector) -> None:
    traces.configure(collector.address, "agent")

    async def work(name: str) -> None:
        with traces.span(name):
            await asyncio.sleep(0)
            with traces.span(f"{name}.inner"):
                await asyncio.sleep(0)

    await asyncio.gather(work("a"), work("b"))
    await asyncio.to_thread(traces.shutdown)
    for name in ("a", "b"):
        outer, inner = collector.spans[name], collector.spans[f"{name}.inner"]
        assert inner.parent_span_id == outer.span_id


def test_sampling_is_decided_where_a_trace_begins(collector: Collector) -> None:
    traces.configure(collector.address, "agent", sample_ratio=0)
    with traces.span("dropped"):
        assert traces.current_ids() == {}
    with traces.span("kept", parent=traces.extract([("traceparent", PARENT)])):
        pass
    traces.shutdown()
    assert set(collector.spans) == {"kept"}


def test_logs_name_the_span_they_fell_in(collector: Collector) -> None:
    traces.configure(collector.address, "agent")
    with traces.span("request"):
        ids = dict(traces.current_ids())
        fields = logs._trace_ids(None, "info", {"event": "x"})
    traces.shutdown()
    span = collector.spans["request"]
    assert ids == {"trace_id": span.trace_id.hex(), "span_id": span.span_id.hex()}
    assert fields == {"event": "x", **ids}


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:4317", "ftp://collector", "http://"])
def test_an_address_of_another_form_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="write http://host:4317"):
        traces.configure(endpoint, "agent")
    with traces.span("still off") as span:
        assert type(span) is traces.Span


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lite-llm\[tracing\]'"):
        traces.configure("http://127.0.0.1:4317", "agent")


def test_a_collector_that_is_away_harms_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(traces, "EXPORT_SECONDS", 0.5)
    traces.configure("http://127.0.0.1:1", "agent")
    with traces.span("request"):
        pass
    traces.shutdown()
    assert "export" in caplog.text
    with traces.span("off again") as span:
        assert type(span) is traces.Span
