"""What a dead agent wrote down, also where that makes no sense any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from lite_llm.agent.hosted import Goal
from lite_llm.agent.memories import Memories
from lite_llm.agent.state_directory import StateDirectory
from lite_llm.contracts import ModelRef
from lite_llm.proto.v1.model_pb2 import ModelSpec
from lite_llm.wire import ref_to_proto


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"spec": {"ref": {"name": "A B"}}}', "\xff"])
def test_a_file_that_names_no_model_keeps_no_agent_from_its_start(
    tmp_path: Path, content: str
) -> None:
    directory = StateDirectory(tmp_path)
    directory.make()
    memories = Memories(directory)
    spec = ModelSpec(ref=ref_to_proto(ModelRef("default", "good")))
    memories.remember(spec, Goal.DEVICE)
    broken = directory.specs / "default.broken.json"
    broken.write_text(content, encoding="latin-1")
    assert list(memories.recalled()) == [(spec, Goal.DEVICE)]
    assert not broken.exists()
