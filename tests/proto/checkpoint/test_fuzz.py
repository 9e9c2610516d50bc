"""A few seconds of fuzzing with every run; CI may give it more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

FUZZER = Path(__file__).parent / "fuzz_reader.py"
SECONDS = int(os.environ.get("LITE_LLM_FUZZ_SECONDS", "4"))


def test_parsers_survive_the_fuzzer(tmp_path: Path) -> None:
    limits = [f"-max_total_time={SECONDS}", "-rss_limit_mb=2048", "-timeout=20", "-max_len=65536"]
    artifacts = f"-artifact_prefix={tmp_path}/found-"
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    command = [sys.executable, str(FUZZER), str(corpus), *limits, artifacts]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs", result.stderr)
    assert runs, result.stderr[-4000:]
    assert int(runs[1]) > 100
