"""Settings are checked when made, and each fault names its setting."""

import re
from pathlib import Path
from typing import Any

import pytest

from lite_llm.agent import AgentSettings
from lite_llm.agent.settings import host_node
from lite_llm.contracts.errors import InvalidSettings

STATE = Path("state")


def test_defaults() -> None:
    settings = AgentSettings(state_directory=STATE)
    assert settings.node == host_node()
    assert settings.worker_threads >= 1
    assert settings.heartbeat_seconds * 3 == settings.lease_seconds
    assert settings.address(80) == "127.0.0.1:80"


def test_the_advertised_host() -> None:
    settings = AgentSettings(state_directory=STATE, listen="0.0.0.0:0", advertise_host="node-1")
    assert settings.address(80) == "node-1:80"


@pytest.mark.parametrize(("host", "node"), [("Node_7.Example", "node-7.example"), ("-x-", "x")])
def test_host_names_become_node_names(
    monkeypatch: pytest.MonkeyPatch, host: str, node: str
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert host_node() == node


def test_a_host_name_that_can_not_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "---")
    with pytest.raises(InvalidSettings, match="can't name a node"):
        AgentSettings(state_directory=STATE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("node", "Upper"),
        ("listen", "8080"),
        ("listen", "0.0.0.0:8080"),
        ("listen_http", "8080"),
        ("worker_threads", 0),
        ("memory_bytes", -1),
        ("cache_bytes", -1),
        ("hang_seconds", 0.0),
        ("heartbeat_seconds", 9.0),
        ("heartbeat_seconds", 0.0),
        ("start_seconds", 0.0),
        ("stop_seconds", -1.0),
    ],
)
def test_faults_name_their_setting(field: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=re.escape(f"{field} is {value!r}")) as refusal:
        AgentSettings(**({"state_directory": STATE} | {field: value}))
    assert refusal.value.where == field
    assert refusal.value.remedy
