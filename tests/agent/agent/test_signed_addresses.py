"""An agent without credentials loads from private buckets what an orchestrator signed for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer

from lite_llm.agent.checkpoints import Checkpoints
from lite_llm.agent.signed_addresses import SignedAddresses
from lite_llm.checkpoint import Finding, convert, verify
from lite_llm.contracts import Medium
from lite_llm.contracts.errors import Forbidden, LiteLLMError, ModelNotFound, StoreUnavailable
from lite_llm.proto.v1.agent_pb2 import LoadRequest, SignedFile
from lite_llm.proto.v1.model_pb2 import ModelSource, ModelSpec
from lite_llm.registry import RegistrySettings, load_request, publish
from lite_llm.stores import Backoff, SignedSource, digest_of_directory
from lite_llm.testing.buckets import Buckets, serving_buckets
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.tiers import DiskBudget, DiskReader, DiskTier


@pytest.fixture
async def buckets() -> AsyncIterator[Buckets]:
    async with serving_buckets() as serving:
        yield serving


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with urlopen(Request(f"{endpoint}/models", method="PUT")):
        pass
    yield {
        "endpoint": endpoint,
        "access_key_id": "key",
        "secret_access_key": "secret",
        "region": "us-east-1",
        "virtual_hosted_style_request": "false",
    }
    server.stop()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for _ in convert(tiny_llama(root / "hf", seed=1), root / "ours"):
        pass
    return root / "ours"


@asynccontextmanager
async def cache_in(root: Path) -> AsyncIterator[Checkpoints]:
    async with AsyncExitStack() as opened:
        budget = DiskBudget(directory=root, num_bytes=1 << 30)
        disks = await opened.enter_async_context(DiskTier({Medium.NVME: budget}))
        reader = DiskReader(threads=1)
        opened.callback(reader.close)
        checkpoints = Checkpoints(root, disks, reader)
        checkpoints.prepare()
        yield checkpoints


def registry(uri: str, options: Mapping[str, str], scratch: Path) -> RegistrySettings:
    scheme, _, rest = uri.partition("://")
    store = f"{scheme}://{rest.partition('/')[0]}"
    return RegistrySettings(stores=(store,), scratch=scratch, options={scheme: options})


@pytest.mark.parametrize("scheme", ["s3", "az", "gs"])
async def test_a_private_bucket_opens_without_credentials(
    scheme: str, buckets: Buckets, s3: dict[str, str], checkpoint: Path, tmp_path: Path
) -> None:
    known = {"s3": s3, "az": buckets.azure, "gs": buckets.google}[scheme]
    uri = f"{scheme}://models/published/tiny"
    await publish(checkpoint, uri, known, lambda _: None)
    spec = ModelSpec(source=ModelSource(uri=uri))
    request = await load_request(spec, registry(uri, known, tmp_path / "scratch"))
    assert request.signed_until > time.time() + 3600
    async with cache_in(tmp_path / "cache") as checkpoints:
        checkpoints.signed.learn(request)
        async with checkpoints.held(spec.source, lambda *_: None) as held:
            assert held.digest == digest_of_directory(checkpoint)
            assert [each for each in verify(held.directory) if isinstance(each, Finding)] == []
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache" / "listings").iterdir())
    assert b"ignature" not in kept.replace(b"manifest.signature", b"")
    assert b"http" not in kept


async def test_only_what_lies_in_our_stores_is_signed(
    buckets: Buckets, checkpoint: Path, tmp_path: Path
) -> None:
    known = buckets.google
    await publish(checkpoint, "gs://models/tiny", known, lambda _: None)
    await publish(checkpoint, "gs://models-of-others/tiny", known, lambda _: None)
    ours = registry("gs://models/", known, tmp_path)
    for uri in ("gs://models-of-others/tiny", "gs://models/absent", "hf://owner/tiny"):
        request = await load_request(ModelSpec(source=ModelSource(uri=uri)), ours)
        assert not request.signed_files, uri
        assert request.spec.source.uri == uri
    there = ModelSpec(source=ModelSource(uri="gs://models/tiny"))
    assert (await load_request(there, ours)).signed_files
    assert not (await load_request(there, None)).signed_files


async def test_a_signer_without_rights_leaves_it_to_the_agent(
    buckets: Buckets, tmp_path: Path
) -> None:
    wrong = {**buckets.azure, "account_key": "d3Jvbmc="}
    spec = ModelSpec(source=ModelSource(uri="az://models/tiny"))
    request = await load_request(spec, registry("az://models/", wrong, tmp_path))
    assert request.spec == spec
    assert not request.signed_files


def test_what_has_expired_is_forgotten() -> None:
    def ordered(uri: str, seconds: float) -> LoadRequest:
        return LoadRequest(
            spec=ModelSpec(source=ModelSource(uri=uri)),
            signed_files=[SignedFile(name="a", url="http://127.0.0.1:1/a?signature")],
            signed_until=int(time.time() + seconds),
        )

    signed = SignedAddresses()
    signed.learn(ordered("gs://models/old", -1))
    signed.learn(ordered("gs://models/new", 60))
    signed.learn(LoadRequest(spec=ModelSpec(source=ModelSource(uri="gs://models/new"))))
    assert signed.source("gs://models/old") is None
    assert signed.source("gs://models/new") is not None
    assert signed.source("gs://models/other") is None


async def test_refusals_say_what_is_wrong_and_nothing_of_the_address(
    buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "delay", lambda *_: None)  # one attempt
    urls = {
        "forged": f"{buckets.url}/models/a?X-Goog-Signature=secret",
        "away": "http://127.0.0.1:1/a?X-Goog-Signature=secret",
    }
    cases: list[tuple[str, float, type[LiteLLMError]]] = [
        ("forged", 60, Forbidden),
        ("away", 60, StoreUnavailable),
        ("away", -1, StoreUnavailable),
    ]
    for name, seconds, kind in cases:
        source = SignedSource("gs://models", urls, time.time() + seconds)
        try:
            with pytest.raises(kind) as caught:
                await asyncio.wait_for(source.status(name), 30)
        finally:
            await source.close()
        assert "secret" not in str(caught.value)


async def test_a_checkpoint_that_has_gone_is_not_found(
    buckets: Buckets, checkpoint: Path, tmp_path: Path
) -> None:
    uri = "gs://models/tiny"
    await publish(checkpoint, uri, buckets.google, lambda _: None)
    spec = ModelSpec(source=ModelSource(uri=uri))
    request = await load_request(spec, registry(uri, buckets.google, tmp_path / "scratch"))
    buckets.objects.clear()
    async with cache_in(tmp_path / "cache") as checkpoints:
        checkpoints.signed.learn(request)
        with pytest.raises(ModelNotFound):
            async with checkpoints.held(spec.source, lambda *_: None):
                pass
