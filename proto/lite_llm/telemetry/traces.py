"""Optional OpenTelemetry traces.

Until :func:`configure` is called nothing of OpenTelemetry is imported, and ``with span(…)`` costs
about half a microsecond (CPython 3.11, one attribute). The `tracing` extra brings what it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

Metadata = tuple[tuple[str, str | bytes], ...]
"""As gRPC takes it; ``dict(metadata)`` of text values is HTTP headers."""


@dataclass(frozen=True, slots=True)
class Part:
    """Of work that is over; times are nanoseconds since the epoch."""

    name: str
    began_ns: int
    ended_ns: int


EXPORT_SECONDS = 5.0  # a collector that is away delays the end of a program by this at most


class Span:
    """A span that is not recorded; all that is seen of tracing while it is off."""

    __slots__ = ()

    def set(self, **attributes: object) -> None:
        """Add attributes that became known on the way."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


_OFF = Span()
_exporting: _Exporting | None = None


def span(name: str, *, parent: Context | None = None, **attributes: object) -> Span:
    """A part of the work, to be used in a ``with`` statement; spans inside become its children.

    ``parent`` comes from :func:`extract` and replaces the surrounding span. Attributes that are
    None are left out. An exception marks the span with its type; its message stays out, for it
    may quote what a user wrote.
    """
    if _exporting is None:
        return _OFF
    return _exporting.span(name, parent, attributes)


def configure(endpoint: str, service: str, *, sample_ratio: float = 1.0) -> None:
    """Export to an OTLP/gRPC collector at ``http(s)://host:port`` from now on.

    ``sample_ratio`` of the traces that begin here are kept; a trace that began elsewhere keeps
    its beginner's decision. Raises ``ValueError`` for an address of another form, and
    ``ModuleNotFoundError`` where the `tracing` extra is not installed.
    """
    global _exporting  # noqa: PLW0603 - tracing is of the process, as logging is
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"{endpoint!r} is no collector's address; write http://host:4317")
    shutdown()
    _exporting = _Exporting(endpoint, service, sample_ratio)


def shutdown() -> None:
    """Send what is left, within :data:`EXPORT_SECONDS`, and turn tracing off."""
    global _exporting
    exporting, _exporting = _exporting, None
    if exporting is not None:
        exporting.provider.shutdown()


def record(
    name: str, parts: Sequence[Part], *, parent: Context | None = None, **attributes: object
) -> None:
    """Work that is over, as a span with a child for each of ``parts``, which are in order.

    For what no single ``with`` block surrounds. It began with its first part and ended with its
    last; without parts nothing is recorded.
    """
    if _exporting is not None and parts:
        _exporting.record(name, parts, parent, attributes)


def inject(metadata: Metadata = ()) -> Metadata:
    """``metadata`` plus the W3C ``traceparent`` of the current span, if there is one."""
    if _exporting is None:
        return metadata
    carrier: dict[str, str] = {}
    _exporting.propagator.inject(carrier)
    return (*metadata, *carrier.items())


def extract(metadata: Iterable[tuple[str, str | bytes]]) -> Context | None:
    """The remote parent that a request names; None while tracing is off.

    Takes gRPC metadata or an HTTP request's header pairs; what is malformed is ignored.
    """
    if _exporting is None:
        return None
    wanted = _exporting.propagator.fields
    carrier = {
        key.lower(): value
        for key, value in metadata
        if isinstance(value, str) and key.lower() in wanted
    }
    return _exporting.propagator.extract(carrier)


def current_ids() -> Mapping[str, str]:
    """``trace_id`` and ``span_id`` in hexadecimal for a log line; empty outside a sampled span."""
    if _exporting is None:
        return {}
    return _exporting.current_ids()


class _Exporting:
    """Tracing while it is on. Everything of OpenTelemetry is imported here."""

    def __init__(self, endpoint: str, service: str, sample_ratio: float) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"tracing needs {error.name}: pip install 'lite-llm[tracing]'", name=error.name
            ) from error
        self._trace = trace
        self.propagator = TraceContextTextMapPropagator()
        self.provider: TracerProvider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create({"service.name": service}),
        )
        exporter = OTLPSpanExporter(
            endpoint, insecure=endpoint.startswith("http:"), timeout=EXPORT_SECONDS
        )
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self.provider.get_tracer("lite_llm")

    def span(self, name: str, parent: Context | None, attributes: Mapping[str, object]) -> Span:
        begun = self._tracer.start_span(name, parent, attributes=_told(attributes))
        return _LiveSpan(begun)

    def record(
        self,
        name: str,
        parts: Sequence[Part],
        parent: Context | None,
        attributes: Mapping[str, object],
    ) -> None:
        begun = self._tracer.start_span(
            name, parent, attributes=_told(attributes), start_time=parts[0].began_ns
        )
        inside = self._trace.set_span_in_context(begun)
        for part in parts:
            child = self._tracer.start_span(part.name, inside, start_time=part.began_ns)
            child.end(part.ended_ns)
        begun.end(parts[-1].ended_ns)

    def current_ids(self) -> Mapping[str, str]:
        context = self._trace.get_current_span().get_span_context()
        if not context.trace_flags.sampled:
            return {}
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


class _LiveSpan(Span):
    """A span of OpenTelemetry, current while its block runs."""

    __slots__ = ("_scope", "_span")

    def __init__(self, begun: OtelSpan) -> None:
        from opentelemetry.trace import use_span

        self._span = begun
        self._scope = use_span(
            begun, end_on_exit=True, record_exception=False, set_status_on_exception=False
        )

    def set(self, **attributes: object) -> None:
        self._span.set_attributes(_told(attributes))

    def __enter__(self) -> Self:
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from opentelemetry.trace import StatusCode

        if kind is not None:
            self._span.set_attribute("error.type", kind.__qualname__)
            if issubclass(kind, Exception):  # a cancelled task has not failed
                self._span.set_status(StatusCode.ERROR)
        self._scope.__exit__(kind, error, trace)


def _told(attributes: Mapping[str, object]) -> dict[str, str | bool | int | float]:
    return {
        key: value if isinstance(value, str | bool | int | float) else str(value)
        for key, value in attributes.items()
        if value is not None
    }
