"""``make demo``: the whole story, as a newcomer sees it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_story_holds() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "story"],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    for said in ("Why this agent", "Back from zero", "TierSets", "identical text and tokens"):
        assert said in told.stdout
