"""``make demo``: a tiny random model, served, asked over OpenAI's API, and gone again."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import openai

from lite_llm.testing.checkpoints import tiny_llama
from lite_llm.testing.guard import free_ports


def main() -> None:
    """Exits 0 only if tokens came and nothing was left behind."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "tiny"
        tiny_llama(checkpoint, seed=1)
        command = [sys.executable, "-m", "lite_llm.cli", "up", "--model", str(checkpoint)]
        up = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE, text=True)
        try:
            started = time.monotonic()
            assert up.stdout is not None
            told = up.stdout.readline()
            if not told.startswith("serving"):
                sys.exit("the model did not come up")
            print(told.strip(), f"({time.monotonic() - started:.1f} s)")
            stream_once(port)
        finally:
            up.terminate()
            status = up.wait(timeout=60)
    sys.exit(status)


def stream_once(port: int) -> None:
    """Ask for 32 tokens and print them as they come; they are as random as the model."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        asked, first, pieces = time.monotonic(), 0.0, 0
        for chunk in client.completions.create(
            model="tiny", prompt="the quick brown fox", max_tokens=32, temperature=0, stream=True
        ):
            for choice in chunk.choices:
                first = first or time.monotonic() - asked
                pieces += bool(choice.text)
                print(choice.text, end="", flush=True)
        print(f"\n{pieces} pieces of text, the first after {first * 1000:.0f} ms")
        if not pieces:
            sys.exit("no tokens came")


if __name__ == "__main__":
    main()
