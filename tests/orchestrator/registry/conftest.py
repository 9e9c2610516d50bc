"""A small hub with the real routes, S3 by moto, and a checkpoint to publish."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer

from lite_llm.registry import RegistrySettings
from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.testing.hub import Hub, serving_hub

BUCKET = "models"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with serving_hub(tiny_llama(tmp_path / "published", seed=1, shards=2)) as hub:
        yield hub


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """obstore's options for a running S3 with a bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "endpoint": f"http://{host}:{port}",
        "access_key_id": "key",
        "secret_access_key": "secret",
        "region": "us-east-1",
        "virtual_hosted_style_request": "false",
    }
    with urlopen(Request(f"{options['endpoint']}/{BUCKET}", method="PUT")):
        pass
    yield options
    server.stop()


@pytest.fixture
def settings(tmp_path: Path, hub: Hub, s3: dict[str, str]) -> RegistrySettings:
    """S3 first, a directory second."""
    return RegistrySettings(
        stores=(f"s3://{BUCKET}/{tmp_path.name}", (tmp_path / "second").as_uri()),
        scratch=tmp_path / "scratch",
        options={"s3": s3, "hf": {"endpoint": hub.url}},
        first_retry_seconds=0.1,
    )
