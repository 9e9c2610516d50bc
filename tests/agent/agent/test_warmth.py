"""Files of sleeping models in memory, also where somebody takes them away."""

from __future__ import annotations

from pathlib import Path

import pytest

from lite_llm.agent.warmth import Warmth


async def test_files_that_cannot_be_kept_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 100)
    (tmp_path / "empty").touch()
    gone = tmp_path / "gone"
    gone.touch()
    is_file = Path.is_file

    def seen(path: Path) -> bool:
        found = is_file(path)
        if path == gone and found:
            path.unlink()  # as soon as it has been seen
        return found

    monkeypatch.setattr(Path, "is_file", seen)
    warmth = Warmth(1000)
    async with warmth.keeping(tmp_path, 100, lambda: None) as is_warm:
        assert is_warm
        assert warmth.locked_bytes in (0, 100)  # as this machine's limits have it
    assert warmth.used_bytes == warmth.locked_bytes == 0
