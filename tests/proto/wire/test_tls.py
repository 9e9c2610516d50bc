"""Mutual TLS: who has the right certificate gets in, nobody else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lite_llm.contracts.errors import AgentLost, InvalidSettings
from lite_llm.wire import TlsFiles, error_from, open_channel, serving


def files_of(authority: trustme.CA, folder: Path, name: str) -> TlsFiles:
    """A certificate of ``authority`` for ``name``, on disk."""
    folder.mkdir()
    issued = authority.issue_cert(name)
    authority.cert_pem.write_to_path(folder / "ca.crt")
    issued.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    return TlsFiles(
        authority=folder / "ca.crt", certificate=folder / "tls.crt", key=folder / "tls.key"
    )


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_files(authority: trustme.CA, tmp_path: Path) -> TlsFiles:
    return files_of(authority, tmp_path / "server", "127.0.0.1")


@pytest.fixture
def client_files(authority: trustme.CA, tmp_path: Path) -> TlsFiles:
    return files_of(authority, tmp_path / "client", "client.example")


async def check(channel: grpc.aio.Channel) -> int:
    async with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    return int(answer.status)


async def refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await check(channel)
    assert type(error_from(failure.value, where="peer")) is AgentLost


async def test_the_right_certificate_gets_in(
    server_files: TlsFiles, client_files: TlsFiles
) -> None:
    async with serving("127.0.0.1:0", {}, tls=server_files, grace=0) as endpoint:
        channel = open_channel(f"127.0.0.1:{endpoint.port}", tls=client_files)
        assert await check(channel) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_nobody_else_gets_in(
    authority: trustme.CA, server_files: TlsFiles, client_files: TlsFiles, tmp_path: Path
) -> None:
    stranger = files_of(trustme.CA(), tmp_path / "stranger", "client.example")
    impostor = replace(stranger, authority=client_files.authority)
    without = grpc.ssl_channel_credentials(client_files.authority.read_bytes())
    async with serving("127.0.0.1:0", {}, tls=server_files, grace=0) as endpoint:
        address = f"127.0.0.1:{endpoint.port}"
        await refused(open_channel(address))
        await refused(grpc.aio.secure_channel(address, without))
        await refused(open_channel(address, tls=impostor))
        await refused(open_channel(address, tls=stranger))


async def test_a_server_under_another_name_is_refused(
    authority: trustme.CA, client_files: TlsFiles, tmp_path: Path
) -> None:
    other = files_of(authority, tmp_path / "other", "other.example")
    async with serving("127.0.0.1:0", {}, tls=other, grace=0) as endpoint:
        await refused(open_channel(f"127.0.0.1:{endpoint.port}", tls=client_files))


async def test_a_name_that_was_agreed_on_stands_for_the_address(
    authority: trustme.CA, client_files: TlsFiles, tmp_path: Path
) -> None:
    pod = files_of(authority, tmp_path / "pod", "lite-llm.internal")
    async with serving("127.0.0.1:0", {}, tls=pod, grace=0) as endpoint:
        address = f"127.0.0.1:{endpoint.port}"
        await refused(open_channel(address, tls=client_files))
        agreed = replace(client_files, server_name="lite-llm.internal")
        assert await check(open_channel(address, tls=agreed))
        await refused(open_channel(address, tls=replace(agreed, server_name="other.internal")))


@pytest.mark.parametrize("missing", ["authority", "certificate", "key"])
async def test_a_missing_file_is_named(server_files: TlsFiles, missing: str) -> None:
    path = getattr(server_files, missing)
    path.unlink()
    with pytest.raises(InvalidSettings, match=f"TLS file {path} can't be read: No such file"):
        open_channel("localhost:1", tls=server_files)
    with pytest.raises(InvalidSettings, match="mount it, or correct the path") as caught:
        async with serving("127.0.0.1:0", {}, tls=server_files):
            pass
    assert caught.value.where == str(path)


@pytest.mark.parametrize("broken", ["certificate", "key"])
async def test_a_file_that_is_no_pem_is_refused(server_files: TlsFiles, broken: str) -> None:
    getattr(server_files, broken).write_text("not PEM")
    with pytest.raises(InvalidSettings, match="whose certificate and key belong together"):
        async with serving("127.0.0.1:0", {}, tls=server_files):
            pass


async def test_a_key_of_another_certificate_is_refused(
    server_files: TlsFiles, client_files: TlsFiles
) -> None:
    mixed = replace(server_files, key=client_files.key)
    with pytest.raises(InvalidSettings, match="whose certificate and key belong together"):
        async with serving("127.0.0.1:0", {}, tls=mixed):
            pass
