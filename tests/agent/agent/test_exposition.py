"""One page of metrics for a node, and the port that it is on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lite_llm.agent import AgentSettings, running
from lite_llm.agent.exposition import merged
from lite_llm.agent.http_port import http_serving
from lite_llm.contracts.errors import InvalidSettings
from lite_llm.metastore import StoreSettings, open_store
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.agent_pb2_grpc import AgentStub
from lite_llm.telemetry import Metrics, Program, names, vllm_names
from lite_llm.telemetry.metrics import render
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.wire import open_channel


def test_workers_metrics_get_their_models_name() -> None:
    own, one, two = (Metrics(names.exported_by(Program.AGENT)) for _ in range(3))
    own[names.EVICTIONS_TOTAL].labels(tier="nvme", reason="capacity").inc(3)
    for worker, count in ((one, 1), (two, 2)):
        gauge = worker[vllm_names.NUM_REQUESTS_RUNNING]
        gauge.labels(model_name="m", engine="0").set(count)
    told = {
        f"default/{name}": render(worker.registry)[0].decode()
        for name, worker in (("one", one), ("two", two))
    }
    families = {family.name: family for family in merged(own.registry.collect(), told)}
    by_model = {
        sample.labels["model"]: sample.value
        for sample in families["vllm:num_requests_running"].samples
    }
    assert by_model == {"default/one": 1, "default/two": 2}
    resident = families["process_resident_memory_bytes"].samples
    assert [sample.labels.get("model") for sample in resident] == [
        None,
        "default/one",
        "default/two",
    ]


def test_a_worker_that_says_nothing_is_left_out() -> None:
    own = Metrics(names.exported_by(Program.AGENT))
    assert len(merged(own.registry.collect(), {"default/one": ""})) > 10


@pytest.mark.parametrize("text", ["a{b=} 1", "# TYPE a gauge\na{", "a one", "\x00{{{"])
def test_a_worker_that_says_nonsense_spoils_no_page(text: str) -> None:
    own, sound = (Metrics(names.exported_by(Program.AGENT)) for _ in range(2))
    sound[vllm_names.NUM_REQUESTS_RUNNING].labels(model_name="m", engine="0").set(1)
    told = {"default/bad": text, "default/good": render(sound.registry)[0].decode()}
    families = {family.name: family for family in merged(own.registry.collect(), told)}
    (sample,) = families["vllm:num_requests_running"].samples
    assert sample.labels["model"] == "default/good"


async def test_a_port_that_is_taken() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(InvalidSettings, match="can't listen"):
            async with http_serving(f"127.0.0.1:{port}", aiohttp.web.Application()):
                pass


async def test_the_http_port(tmp_path: Path) -> None:
    checkpoint = tiny_llama(tmp_path / "checkpoint", seed=1)
    settings = AgentSettings(
        state_directory=tmp_path / "state",
        node="node-1",
        worker_threads=1,
        prefork=False,
        kv_bytes=1 << 20,
    )
    async with (
        open_store(StoreSettings()) as store,
        running(settings, store) as agent,
        open_channel(agent.grpc_address) as channel,
        aiohttp.ClientSession(f"http://{agent.http_address}") as http,
    ):
        stub = AgentStub(channel)
        assert (await get(http, "/healthz")) == (200, "ok\n")
        assert (await get(http, "/readyz")) == (200, "ok\n")
        status = (await stub.Status(agent_pb2.AgentStatusRequest())).status
        assert status.http_address == agent.http_address
        spec = model_pb2.ModelSpec(ref=model_pb2.ModelRef(namespace="default", name="tiny"))
        spec.source.uri = str(checkpoint)
        _ = [step async for step in stub.Load(agent_pb2.LoadRequest(spec=spec))]
        sampling = generate_pb2.SamplingParameters(max_tokens=8, ignore_eos=True)
        start = generate_pb2.GenerateStart(
            request_id="r", model=spec.ref, text="the same", sampling=sampling
        )
        requests = iter([generate_pb2.GenerateRequest(start=start)])
        _ = [event async for event in stub.Generate(requests)]
        code, page = await get(http, "/metrics")
        assert code == 200
        samples = {
            sample.name: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.labels.get("model") == "default/tiny"
        }
        assert samples["vllm:generation_tokens_total"] >= 8
        assert 'lite_llm_tier_bytes{node="node-1",state="capacity",tier="nvme"}' in page
        started = 'lite_llm_cold_start_seconds_count{model="default/tiny",path="cold",phase="init"}'
        assert f"{started} 1.0" in page
        assert page.count("# TYPE process_resident_memory_bytes gauge") == 1
        by_grpc = await stub.Metrics(agent_pb2.MetricsRequest())
        assert "vllm:generation_tokens_total" in by_grpc.text
        await stub.Drain(agent_pb2.DrainRequest(grace_seconds=1.0))
        assert (await get(http, "/readyz")) == (503, "draining\n")
        assert (await get(http, "/healthz")) == (200, "ok\n")


async def get(http: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with http.get(path) as answer:
        return answer.status, await answer.text()
