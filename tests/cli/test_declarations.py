from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from lite_llm.cli.declarations import Declaration, declared, name_of, parsed
from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Conflict, InvalidName, InvalidSettings, ModelNotFound
from lite_llm.contracts.keyspace import MODELS, ModelKey, key_of
from lite_llm.metastore import MemoryStore, StoreSettings, Written, open_store
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire import dumps, loads, ref_to_proto


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "Tiny Llama"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("tiny", "tiny"),
        ("Meta-Llama-3.1_8B", "meta-llama-3.1-8b"),
        (".hidden.", "hidden"),
        ("a..b", "a.b"),
        ("-dash-.-dot-", "dash.dot"),
        ("Größe", "gr-e"),
        ("x" * 70, "x" * 63),
        ("x" * 62 + " y", "x" * 62),
    ],
)
def test_a_name_is_made_of_the_directory(directory: str, name: str) -> None:
    assert name_of(directory) == name
    assert ModelRef("default", name).name == name


def test_a_directory_without_a_usable_letter_must_be_named() -> None:
    with pytest.raises(InvalidName, match="NAME=DIR"):
        name_of("/")


def test_a_model_is_a_directory_with_or_without_a_name(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Declaration.parse(str(checkpoint)) == Declaration(
        ModelRef("default", "tiny-llama"), checkpoint.as_uri()
    )
    assert Declaration.parse(str(checkpoint)).directory == checkpoint
    assert Declaration.parse(f"mine={checkpoint}").model.name == "mine"
    monkeypatch.chdir(checkpoint)
    assert Declaration.parse(".").model.name == "tiny-llama"
    odd = checkpoint.rename(checkpoint.parent / "a=b")
    assert Declaration.parse(str(odd)) == Declaration(ModelRef("default", "a-b"), odd.as_uri())
    with pytest.raises(InvalidName):
        Declaration.parse(f"Not A Name={odd}")


@pytest.mark.parametrize(
    ("text", "name", "uri"),
    [
        ("hf://acme/Small-1.5B", "small-1.5b", "hf://acme/Small-1.5B"),
        ("hf://acme/small@v2", "small", "hf://acme/small@v2"),
        ("mine=hf://acme/small", "mine", "hf://acme/small"),
        ("s3://bucket/models/big/", "big", "s3://bucket/models/big/"),
        ("https://host/a/b?key=v", "b-key-v", "https://host/a/b?key=v"),
    ],
)
def test_a_model_may_lie_in_a_store(text: str, name: str, uri: str) -> None:
    declaration = Declaration.parse(text)
    assert (declaration.model.name, declaration.uri) == (name, uri)
    assert declaration.directory is None
    assert declaration.spec().source.uri == uri


def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="is not a directory"):
        Declaration.parse(str(tmp_path / "absent"))
    with pytest.raises(ModelNotFound, match="has neither config"):
        Declaration.parse(str(tmp_path))


def test_two_models_of_one_name_are_refused(checkpoint: Path) -> None:
    with pytest.raises(InvalidSettings, match="NAME=DIR"):
        parsed([str(checkpoint), f"tiny-llama={checkpoint}"])
    assert len(parsed([str(checkpoint), f"other={checkpoint}"])) == 2


async def test_a_declaration_is_in_the_store_for_a_while(checkpoint: Path) -> None:
    mine = Declaration.parse(str(checkpoint))
    key = key_of(ModelKey(mine.model))
    async with open_store(StoreSettings()) as store:
        async with declared(store, [mine]):
            entry = await store.get(key)
            assert entry is not None
            spec = loads(entry.value, ModelSpec, where=key)
            assert spec.source.uri == checkpoint.as_uri()
            assert "%20" in spec.source.uri
        assert (await store.list_prefix(MODELS)).entries == ()


async def test_what_others_declared_is_left_alone(checkpoint: Path) -> None:
    mine = Declaration.parse(str(checkpoint))
    key = key_of(ModelKey(mine.model))
    async with open_store(StoreSettings()) as store:
        await store.put(key, dumps(mine.spec()))
        async with declared(store, [mine]):
            pass
        assert await store.get(key) is not None, "the same by another hand stays"

        await store.put(key, dumps(ModelSpec(ref=ref_to_proto(mine.model), generation=3)))
        second = Declaration(ModelRef("default", "second"), checkpoint.as_uri())
        with pytest.raises(Conflict, match="NAME=DIR"):
            async with declared(store, [second, mine]):
                pytest.fail("not reached")
        assert [entry.key for entry in (await store.list_prefix(MODELS)).entries] == [key]

        async with declared(store, [second]):
            changed = ModelSpec(ref=ref_to_proto(second.model), generation=9)
            await store.put(key_of(ModelKey(second.model)), dumps(changed))
        assert len((await store.list_prefix(MODELS)).entries) == 2, "what was changed since stays"


async def test_a_declaration_comes_back_to_a_store_that_lost_it(checkpoint: Path) -> None:
    mine = Declaration.parse(str(checkpoint))
    key = key_of(ModelKey(mine.model))
    store = MemoryStore()
    with closing(store):
        async with declared(store, [mine], lease_seconds=0.3), asyncio.timeout(30):
            store.wipe()
            assert await store.get(key) is None
            async with store.watch(MODELS) as events:
                async for event in events:
                    if isinstance(event, Written):
                        break
            entry = await store.get(key)
            assert entry is not None
            assert entry.value == dumps(mine.spec())


async def test_a_declaration_survives_the_lease_of_a_process_that_died(checkpoint: Path) -> None:
    mine = Declaration.parse(str(checkpoint))
    key = key_of(ModelKey(mine.model))
    async with open_store(StoreSettings()) as store:
        async with AsyncExitStack() as house:
            async with store.lease(60.0) as dead:
                await store.put(key, dumps(mine.spec()), lease=dead)
                await house.enter_async_context(declared(store, [mine]))
            assert await store.get(key) is not None
        assert await store.get(key) is None
