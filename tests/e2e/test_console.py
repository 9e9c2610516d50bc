"""The console over a real deployment, as a person sees it; pictures for the documents on request.

LITE_LLM_PICTURES=docs/images pytest tests/e2e/test_console.py
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright, expect

from lite_llm.testing.command import Command
from lite_llm.testing.guard import Guard, find_program, free_ports

SOON = 60_000  # ms
EXPERTS = 128
BUDGETS = ("--hot-bytes", "6MiB", "--warm-bytes", "4MiB")


async def look(page: Page, url: str) -> None:
    """Everything that the page tells of the demo model, without a click but one."""
    await page.goto(url)
    await expect(page.locator("#line")).to_have_text("live, 2 agents, 1 model", timeout=SOON)
    await expect(page.locator("#chosen-title")).to_have_text("demo")
    await expect(page.locator("#starts")).to_contain_text("read")
    await page.locator("#try-go").click()
    await expect(page.locator("#try-facts")).to_contain_text("tokens/s", timeout=SOON)
    assert await page.locator("#try-answer").inner_text()
    await expect(page.locator("#experts .layer")).to_have_count(4, timeout=SOON)
    await expect(page.locator("#experts .titles b")).to_have_text(
        ["hot", "warm", "cold", "archive"]
    )
    await expect(page.locator("#experts .cells i")).to_have_count(EXPERTS)
    await expect(page.locator("#experts .cells i.unspecified")).to_have_count(0)
    near = await page.locator("#experts .cells i.gpu").count()
    assert 0 < near < EXPERTS, "ten of thirteen megabytes have room"


@pytest.mark.timeout(600)
async def test_a_person_sees_where_experts_lie(guard: Guard, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    up = Command(guard, "up", "--port", str(port), "--agents", "2", *BUDGETS)
    await asyncio.to_thread(up.wait_said, "OpenAI(")
    pictures = Path(os.environ.get("LITE_LLM_PICTURES", tmp_path))
    chromium = find_program("chromium", remedy="run make setup, or apt install chromium")
    faults: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, scheme in (("console", "light"), ("console-dark", "dark")):
            page = await browser.new_page(
                viewport={"width": 1100, "height": 900},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page.on("pageerror", lambda error: faults.append(str(error)))
            await look(page, f"http://127.0.0.1:{port}/console")
            await page.screenshot(path=pictures / f"{name}.png", full_page=True)
            assert (faults, await overflow(page)) == ([], 0)
            await page.set_viewport_size({"width": 420, "height": 900})
            assert await overflow(page) == 0, "on a telephone nothing is beside the page"
        await browser.close()
    assert await asyncio.to_thread(up.terminated) == 0


async def overflow(page: Page) -> int:
    """Pixels that one would have to scroll sideways for."""
    width: int = await page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return width
