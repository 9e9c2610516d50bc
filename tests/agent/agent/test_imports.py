"""The daemon does without torch: only its workers import it."""

import subprocess
import sys

PROGRAM = """
import sys
import lite_llm.agent
print(sorted({"torch", "tokenizers", "safetensors", "lite_llm.engine"} & set(sys.modules)))
"""


def test_the_daemon_imports_nothing_of_the_engine() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"
