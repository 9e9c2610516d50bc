"""Requests with other tiers share a batch and a cache, and each gets what it gets alone."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lite_llm.checkpoint import ConvertOptions, TierRule, TierRules, convert, open_checkpoint
from lite_llm.contracts import ModelRef, TierMode, TierSet
from lite_llm.contracts.errors import Forbidden, InvalidSettings
from lite_llm.engine import Model, Request, Started, load_model
from lite_llm.engine.compute_thread import ComputeThread
from lite_llm.engine.served import ServingSettings
from lite_llm.engine.service import WorkerService
from lite_llm.engine.tier_grants import Grant, TierGrants
from lite_llm.experts import ExpertSettings
from lite_llm.proto.v1 import agent_pb2, generate_pb2, model_pb2
from lite_llm.proto.v1.generate_pb2 import TierSelection
from lite_llm.testing.checkpoints import write_tokenizer
from lite_llm.wire import ref_to_proto
from lite_llm.wire.values import tier_set_to_proto

DIM, HEADS, KV_HEADS, HEAD_DIM, INNER, LAYERS, VOCAB = 32, 4, 2, 8, 20, 2, 320
NEAR = TierRule(name="near", placement="hot", experts="0-5", groups=2, top_k_experts=2)
FAR = TierRule(name="far", placement="warm", experts="6-11", groups=3, top_k_groups=2)
NEW = TierRule(name="new", placement="cold", experts="12-15", top_k_experts=3)
SIZES = {"near": (2, 3), "far": (3, 2), "new": (1, 4)}  # groups and experts of each


def hser(directory: Path, *tiers: TierRule) -> Path:
    """Every tensor comes from a seed of its own name, so that a tier more changes no other."""
    source = directory / "source"
    source.mkdir(parents=True)
    listed = []
    shapes: dict[str, tuple[int, ...]] = {
        name: (VOCAB, DIM) for name in ("model.embed_tokens", "lm_head")
    }
    shapes["model.norm"] = (DIM,)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{norm}"] = (DIM,)
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            shapes[f"{prefix}.self_attn.{part}_proj"] = (heads * HEAD_DIM, DIM)
        shapes[f"{prefix}.self_attn.o_proj"] = (DIM, HEADS * HEAD_DIM)
        for number, tier in enumerate(tiers):
            groups, size = SIZES[tier.name]
            shapes[f"{prefix}.mlp.tiers.{number}.router"] = (1 + groups + groups * size, DIM)
        for number in range(sum(groups * size for groups, size in map(size_of, tiers))):
            for part in ("gate_proj", "up_proj"):
                shapes[f"{prefix}.mlp.experts.{number}.{part}"] = (INNER, DIM)
            shapes[f"{prefix}.mlp.experts.{number}.down_proj"] = (DIM, INNER)
    for tier in tiers:
        groups, size = size_of(tier)
        listed.append(
            {
                "name": tier.name,
                "groups": groups,
                "experts_per_group": size,
                "top_k_groups": tier.top_k_groups,
                "top_k_experts": tier.top_k_experts,
            }
        )
    tensors = {}
    for name, shape in shapes.items():
        random = torch.Generator().manual_seed(crc32(name.encode()))
        tensors[f"{name}.weight"] = torch.randn(shape, generator=random) * 0.3
    save_file(tensors, source / "model.safetensors")
    config = {
        "architectures": ["LiteLlmHserForCausalLM"],
        "model_type": "lite_llm_hser",
        "dtype": "float32",
        "vocab_size": VOCAB,
        "hidden_size": DIM,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "moe_intermediate_size": INNER,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "top_k_tiers": 2,
        "tiers": listed,
    }
    (source / "config.json").write_text(json.dumps(config))
    return with_tiers(directory, *tiers)


def size_of(tier: TierRule) -> tuple[int, int]:
    return SIZES[tier.name]


def mixtral(directory: Path, *tiers: TierRule) -> Path:
    config = transformers.MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=16,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        sliding_window=None,
        initializer_range=0.2,
    )
    torch.manual_seed(3)
    transformers.MixtralForCausalLM(config).save_pretrained(directory / "source")
    return with_tiers(directory, *(replaced(tier) for tier in tiers))


def replaced(tier: TierRule) -> TierRule:
    return TierRule(name=tier.name, placement=tier.placement, experts=tier.experts)


def with_tiers(directory: Path, *tiers: TierRule) -> Path:
    write_tokenizer(directory / "source", vocab=VOCAB)
    options = ConvertOptions(tiers=TierRules(list(tiers)))
    for _ in convert(directory / "source", directory / "converted", options):
        pass
    return directory / "converted"


def loaded(directory: Path) -> Model:
    *_, model = load_model(directory)
    assert isinstance(model, Model)
    return model


@pytest.fixture(scope="module", params=[hser, mixtral])
def tiered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return loaded(request.param(tmp_path_factory.mktemp("model"), NEAR, FAR, NEW))


def grant(model: Model, *names: str) -> Grant:
    return TierGrants(model).grant(TierSelection(tiers=names))


def said(reader: Any) -> Any:
    assert reader.failure is None
    return [reader.tokens(index) for index in range(2)], len(reader.ends)


def num_cached(reader: Any) -> int:
    return next(step.num_cached for step in reader.steps if isinstance(step, Started))


SELECTIONS = [(), ("near",), ("far",), ("near", "new"), ("near", "far")]


@pytest.fixture
def requests(tiered: Model, ask: Callable[..., Request]) -> list[Request]:
    prompt = list(range(2, 72))
    fields = [
        {"max_tokens": 20, "logprobs": 2},
        {"max_tokens": 16, "logprobs": 2, "temperature": 0, "n": 2},
    ]
    return [
        ask(prompt=prompt, tiers=grant(tiered, *names), **fields[number % 2])
        for number, names in enumerate(SELECTIONS)
    ]


def test_rows_of_one_batch_use_the_experts_of_their_own_tiers(
    drive: Callable[..., Any], tiered: Model, requests: list[Request]
) -> None:
    alone = [said(drive(other=tiered).run(request)[0]) for request in requests]
    answers = [[token.id for token in tokens[0]][:16] for tokens, _ in alone]
    assert len(set(map(tuple, answers))) == len(answers), "the tiers make no difference"
    driver = drive(other=tiered)
    for order in (requests, requests[::-1]):  # the second time prefixes are found
        told = driver.run(*order)
        assert [said(reader) for reader in told] == [alone[requests.index(each)] for each in order]
    cut = drive(other=tiered, step_tokens=11, max_sequences=6, prompt_tokens=3)
    assert [said(reader) for reader in cut.run(*requests)] == alone
    for host_pages in (0, 64):
        tight = drive(other=tiered, pages=11, host_pages=host_pages)
        for _ in range(20):
            tight.steps._lineup._lengths.observe(1, 100)
        assert [said(reader) for reader in tight.run(*requests)] == alone
        assert tight.value("vllm:num_preemptions_total") > 0


def test_what_other_experts_computed_is_not_found(
    drive: Callable[..., Any], tiered: Model, requests: list[Request]
) -> None:
    driver = drive(other=tiered)
    for request in requests:
        (reader,) = driver.run(request)
        assert num_cached(reader) == 0
    for request in requests:
        (reader,) = driver.run(request)
        assert num_cached(reader) == 64
    (reader,) = driver.run(replace(requests[1], tenant="another"))
    assert num_cached(reader) == 0


@pytest.mark.parametrize("names", [("near",), ("near", "far")])
def test_a_tier_more_moves_no_bit_of_answers_without_it(
    drive: Callable[..., Any], ask: Callable[..., Request], tmp_path: Path, names: tuple[str, ...]
) -> None:
    before, after = (
        loaded(hser(tmp_path / str(len(tiers)), *tiers))
        for tiers in ((NEAR, FAR), (NEAR, FAR, NEW))
    )
    prompt = list(range(2, 40))
    told = []
    for model in (before, after):
        request = ask(prompt=prompt, logprobs=3, max_tokens=30, tiers=grant(model, *names))
        others = [ask(prompt=prompt, tiers=grant(model)), ask(prompt=prompt, seed=3)]
        told.append(said(drive(other=model).run(request, *others)[0]))
    assert told[0] == told[1]
    assert grant(before, "near", "far").ids is None
    assert grant(after, "near", "far").ids == frozenset({0, 1})


class Context:
    """Of a call that nobody leaves."""

    def add_done_callback(self, _: object) -> None:
        """It is never done."""


async def answered(
    service: WorkerService, max_tokens: int = 2, **selection: Any
) -> list[generate_pb2.GenerateEvent]:
    async def asked() -> AsyncIterator[generate_pb2.GenerateRequest]:
        yield generate_pb2.GenerateRequest(
            start=generate_pb2.GenerateStart(
                text="hi",
                tiers=TierSelection(**selection),
                sampling=generate_pb2.SamplingParameters(max_tokens=max_tokens, ignore_eos=True),
            )
        )

    async with asyncio.timeout(60.0):
        events = [event async for event in service.Generate(asked(), cast(Any, Context()))]
    assert events[-1].WhichOneof("event") == "finished"
    return events


async def started(service: WorkerService, **selection: Any) -> generate_pb2.GenerateStarted:
    return (await answered(service, **selection))[0].started


async def said_over_the_wire(service: WorkerService, names: tuple[str, ...]) -> list[int]:
    events = await answered(service, 16, tiers=names)
    return [token for event in events for token in event.tokens.token_ids]


async def test_a_worker_serves_the_tier_set_that_it_is_told(tmp_path: Path) -> None:
    directory = hser(tmp_path, NEAR, FAR, NEW)
    with open_checkpoint(directory) as reader:
        tiers = reader.manifest.tiers
    declared = TierSet(tiers=tiers, default_mode=TierMode.FAST, max_mode=TierMode.BALANCED)
    ref = ModelRef("default", "small")
    spec = model_pb2.ModelSpec(
        ref=ref_to_proto(ref), source=model_pb2.ModelSource(uri=str(directory))
    )
    wrong = replace(declared, tiers=(replace(tiers[0], id=9),))
    with ComputeThread(lambda: None) as compute:
        service = WorkerService(compute, ServingSettings())  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
        async with service:
            for tier_set in (wrong, declared):
                request = agent_pb2.LoadRequest(
                    spec=spec, tier_set=tier_set_to_proto(ref, tier_set)
                )
                load = service.Load(request, cast(Any, None))
                if tier_set is wrong:
                    with pytest.raises(InvalidSettings, match="no tier near of id 9"):
                        await anext(load)
                else:
                    assert [step async for step in load]
            assert (await started(service)).tiers == ["near"]
            for mode in (model_pb2.TIER_MODE_BALANCED, model_pb2.TIER_MODE_MAX):
                assert (await started(service, mode=mode)).tiers == ["near", "far"]
            assert (await started(service, tiers=["far"])).tiers == ["far"]
            with pytest.raises(Forbidden):
                await started(service, tiers=["new"])


async def said_as_declared(directory: Path, **declared: Any) -> list[int]:
    """By a worker of its own, of all tiers."""
    with open_checkpoint(directory) as reader:
        tiers = reader.manifest.tiers
    tiers = declared.pop("tiers", lambda tiers: tiers)(tiers)
    tier_set = TierSet(tiers=tiers, default_mode=TierMode.MAX, **declared)
    ref = ModelRef("default", "small")
    source = model_pb2.ModelSource(uri=str(directory))
    spec = model_pb2.ModelSpec(ref=ref_to_proto(ref), source=source)
    with ComputeThread(lambda: None) as compute:
        service = WorkerService(compute, ServingSettings())  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
        async with service:
            request = agent_pb2.LoadRequest(spec=spec, tier_set=tier_set_to_proto(ref, tier_set))
            assert [step async for step in service.Load(request, cast(Any, None))]
            return await said_over_the_wire(service, ())


async def test_the_declared_seed_orders_experts_of_equal_scores(tmp_path: Path) -> None:
    hser(tmp_path, NEAR, FAR, NEW)
    weights = load_file(tmp_path / "source" / "model.safetensors")
    # Scores are all the same, so that seeds alone choose.
    for name in weights:
        if ".router." in name:
            weights[name] = torch.zeros_like(weights[name])
    shutil.copytree(tmp_path / "source", tmp_path / "tied" / "source")
    save_file(weights, tmp_path / "tied" / "source" / "model.safetensors")
    tied = with_tiers(tmp_path / "tied", NEAR, FAR, NEW)
    told = [await said_as_declared(tied, routing_seed=seed) for seed in (0, 7, 7, 8 << 100, 99)]
    assert told[1] == told[2]
    assert len(set(map(tuple, told))) > 1


async def test_the_declared_number_of_tiers_is_what_a_token_chooses(tmp_path: Path) -> None:
    two = hser(tmp_path, NEAR, FAR, NEW)
    shutil.copytree(tmp_path / "source", tmp_path / "one" / "source")
    config = json.loads((two.parent / "source" / "config.json").read_text())
    (tmp_path / "one" / "source" / "config.json").write_text(
        json.dumps(config | {"top_k_tiers": 1})
    )
    one = with_tiers(tmp_path / "one", NEAR, FAR, NEW)
    told = {k: await said_as_declared(two, top_k_tiers=k) for k in (1, 2, 3)}
    assert told[1] == await said_as_declared(one, top_k_tiers=1)
    assert told[2] == await said_as_declared(one, top_k_tiers=2)
    assert len(set(map(tuple, told.values()))) == 3


async def test_what_a_checkpoint_cannot_do_stops_the_load(tmp_path: Path) -> None:
    flat = mixtral(tmp_path, NEAR, FAR, NEW)
    assert await said_as_declared(flat, top_k_tiers=1) == await said_as_declared(flat)
    with pytest.raises(InvalidSettings, match=r"topKTiers is 2, but routers of mixtral"):
        await said_as_declared(flat, top_k_tiers=2)
    with pytest.raises(InvalidSettings, match=r"tier far has 147456 parameters, .* is 147455"):
        await said_as_declared(
            flat,
            tiers=lambda tiers: tuple(
                replace(tier, parameter_budget=147_455) if tier.name == "far" else tier
                for tier in tiers
            ),
        )


async def told(directory: Path, settings: ServingSettings) -> list[list[int]]:
    """What a worker says under each selection, one after the other and then all at once."""
    spec = model_pb2.ModelSpec(
        ref=ref_to_proto(ModelRef("default", "small")),
        source=model_pb2.ModelSource(uri=str(directory)),
    )
    with ComputeThread(lambda: None) as compute:
        service = WorkerService(compute, settings)  # type: ignore[abstract]  # the rest is UNIMPLEMENTED
        async with service:
            load = service.Load(agent_pb2.LoadRequest(spec=spec), cast(Any, None))
            assert [step async for step in load]
            map_of = await service.Experts(agent_pb2.ExpertMapRequest(), cast(Any, None))
            shape = [
                [(tier.tier, len(tier.media)) for tier in each.tiers] for each in map_of.layers
            ]
            assert shape == [[("near", 6), ("far", 6), ("new", 4)]] * LAYERS
            media = {
                medium for each in map_of.layers for tier in each.tiers for medium in tier.media
            }
            near = {model_pb2.MEDIUM_GPU}
            known = set(model_pb2.Medium.values()) - {model_pb2.MEDIUM_UNSPECIFIED}
            assert media == near if settings.experts is None else near <= media <= known
            alone = [await said_over_the_wire(service, names) for names in SELECTIONS]
            together = (said_over_the_wire(service, names) for names in SELECTIONS)
            assert await asyncio.gather(*together) == alone
    return alone


async def test_experts_that_are_fetched_answer_as_those_at_hand(tmp_path: Path) -> None:
    directory = hser(tmp_path, NEAR, FAR, NEW)
    budget = ExpertSettings(hot_bytes=100 << 10, warm_bytes=100 << 10)  # of 250 KB
    held = await told(directory, ServingSettings())
    assert await told(directory, ServingSettings(experts=budget)) == held
    assert len(set(map(tuple, held))) == len(held)
