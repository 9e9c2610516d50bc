"""The page in a real browser, over a real orchestrator."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from lite_llm.contracts import ModelRef
from lite_llm.contracts.keyspace import ModelKey, key_of
from lite_llm.metastore import Store
from lite_llm.orchestrator import Orchestrator, OrchestratorSettings
from lite_llm.proto.v1.agent_pb2 import (
    ExpertMap,
    ExpertMapLayer,
    ExpertMapTier,
    MediumStatus,
    TierResidency,
)
from lite_llm.proto.v1.generate_pb2 import LOAD_PHASE_INIT, LOAD_PHASE_READ, ColdStart, PhaseTime
from lite_llm.proto.v1.model_pb2 import Medium, ModelSource, ModelSpec
from lite_llm.testing.stub_agent import StubAgent
from lite_llm.wire import dumps, ref_to_proto

SOON = 20_000  # ms: browsers start slowly on a busy machine


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """Fails the test for what a person would find in the browser's console."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser_path, "no chromium on PATH: run make setup, or apt install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
        )
        opened = await browser.new_page(viewport={"width": 1280, "height": 1100})
        faults: list[str] = []
        opened.on("pageerror", lambda error: faults.append(str(error)))
        yield opened
        await browser.close()
    assert not faults


async def test_fleet_is_live(
    page: Page, orchestrator: Orchestrator, store: Store, model: ModelRef, agent: StubAgent
) -> None:
    await agent.register(
        zone="a",
        media=[MediumStatus(medium=Medium.MEDIUM_DRAM, capacity_bytes=8 << 30, used_bytes=2 << 30)],
    )
    await page.goto(f"http://{orchestrator.http_address}/console")
    await expect(page.locator("#line")).to_have_text("live, 1 agent, 1 model", timeout=SOON)
    card = page.locator("article[data-node=stub]")
    await expect(card).to_contain_text("2.0 GiB of 8.0 GiB")
    row = page.locator("tr[data-model=tiny]")
    await expect(row).to_contain_text("nobody has asked for it")
    phases = [
        PhaseTime(phase=LOAD_PHASE_READ, seconds=1.5),
        PhaseTime(phase=LOAD_PHASE_INIT, seconds=0.25),
    ]
    media = bytes([Medium.MEDIUM_GPU] * 3 + [Medium.MEDIUM_NVME])
    layers = [
        ExpertMapLayer(layer=each, tiers=[ExpertMapTier(tier="core", media=media)])
        for each in range(2)
    ]
    agent.experts = ExpertMap(node="stub", layers=layers)
    await agent.hold(
        ref_to_proto(model),
        reason="serves <b>now</b>",
        running_requests=3,
        tiers=[TierResidency(tier="core", medium=Medium.MEDIUM_GPU, bytes=1 << 20, experts=4)],
        last_cold_start=ColdStart(path="warm", phases=phases),
    )
    await expect(row).to_contain_text("serves <b>now</b>", timeout=SOON)
    await expect(card).to_contain_text("tiny: active")
    await row.click()
    await expect(page.locator("#chosen-title")).to_have_text("tiny")
    await expect(page.locator("#tiers")).to_contain_text("1.0 MiB")
    await expect(page.locator("#starts")).to_contain_text("read 1.50 s, init 250 ms")
    await expect(page.locator("#experts .layer")).to_have_count(2, timeout=SOON)
    await expect(page.locator("#experts .cells i.gpu")).to_have_count(6)
    await expect(page.locator("#experts .legend")).to_contain_text("disk 2")
    await expect(page.locator("#scores")).to_contain_text("stub")
    await store.delete(key_of(ModelKey(model)))
    await expect(row).to_have_count(0, timeout=SOON)


async def test_playground_streams(
    page: Page, orchestrator: Orchestrator, model: ModelRef, agent: StubAgent
) -> None:
    await page.goto(f"http://{orchestrator.http_address}/console")
    await expect(page.locator("#try-model option")).to_have_count(1, timeout=SOON)
    await page.locator("#try-tiers").select_option("deep")
    await page.locator("#try-go").click()
    await expect(page.locator("#try-answer")).to_have_text("one two three", timeout=SOON)
    await expect(page.locator("#try-facts")).to_contain_text("agent stub")
    await expect(page.locator("#try-facts")).to_contain_text("cold start: ")
    await expect(page.locator("#try-scores")).to_contain_text("stub")
    assert agent.generations[0].text == "def main():"
    assert agent.generations[0].tiers.mode


async def test_an_error_is_shown_in_words(
    page: Page, orchestrator: Orchestrator, model: ModelRef, agent: StubAgent
) -> None:
    await page.goto(f"http://{orchestrator.http_address}/console")
    await expect(page.locator("#try-model option")).to_have_count(1, timeout=SOON)
    await page.locator("#try-seed").fill("-1")
    await page.evaluate("document.getElementById('try-tokens').value = '-3'")
    await page.evaluate("document.getElementById('try').noValidate = true")
    await page.locator("#try-go").click()
    await expect(page.locator("#try-facts")).to_have_class(re.compile("wrong"), timeout=SOON)
    await expect(page.locator("#try-facts")).to_contain_text("max_tokens")
    await expect(page.locator("#try-go")).to_be_enabled()


class TestWithKeys:
    @pytest.fixture
    def settings(self, settings: OrchestratorSettings, tmp_path: Path) -> OrchestratorSettings:
        digest = hashlib.sha256(b"boss").hexdigest()
        tenants = [{"name": "boss", "keys": [f"sha256:{digest}"], "is_admin": True}]
        path = tmp_path / "keys.json"
        path.write_text(json.dumps({"tenants": tenants}))
        return replace(settings, keys=path)

    async def test_asks_for_the_key(
        self, page: Page, orchestrator: Orchestrator, model: ModelRef, agent: StubAgent
    ) -> None:
        await page.goto(f"http://{orchestrator.http_address}/console")
        await expect(page.locator("#key")).to_be_visible(timeout=SOON)
        await page.locator("#key").fill("wrong")
        await page.locator("#key-form button").click()
        await expect(page.locator("#line")).to_have_class(re.compile("lost"))
        await page.locator("#key").fill("boss")
        await page.locator("#key-form button").click()
        await expect(page.locator("#line")).to_contain_text("live", timeout=SOON)
        await expect(page.locator("#key-form")).to_be_hidden()


async def test_a_model_declared_later_appears(
    page: Page, orchestrator: Orchestrator, store: Store, agent: StubAgent
) -> None:
    await page.goto(f"http://{orchestrator.http_address}/console")
    await expect(page.locator("#models")).to_contain_text("no model is declared", timeout=SOON)
    late = ModelRef("team", "late")
    spec = ModelSpec(ref=ref_to_proto(late), source=ModelSource(uri="file:///models/late"))
    await store.put(key_of(ModelKey(late)), dumps(spec))
    await expect(page.locator("tr[data-model='team/late']")).to_be_visible(timeout=SOON)
