"""Links in the documents lead somewhere, and the reference is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def anchors(text: str) -> set[str]:
    """Anchors as GitHub makes them of headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(text)
    }


def dead_links(document: Path) -> list[str]:
    """Relative links of ``document`` that lead nowhere; absolute ones are not followed."""
    dead = []
    for target in LINK.findall(CODE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name) if name else document
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            dead.append(target)
    return dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_links_are_alive(document: Path) -> None:
    assert dead_links(document) == []


def test_a_dead_link_is_caught(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text(
        "# One two\n[ok](#one-two) [gone](b.md) [no](#three) `[code](x)` [web](https://x)\n"
    )
    assert dead_links(document) == ["b.md", "#three"]


def test_reference_is_what_the_code_says() -> None:
    """Commands, calls, settings, metrics, errors and custom resources, as ``docs/generate`` reads
    them."""
    command = [sys.executable, str(REPO / "docs" / "generate" / "write_pages.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
