from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lite_llm.cli.agent_options import signature_policy, traced
from lite_llm.contracts.errors import InvalidSettings
from lite_llm.telemetry import traces
from lite_llm.trust import generate_key


@pytest.fixture(autouse=True)
def off_afterwards() -> Iterator[None]:
    yield
    traces.shutdown()


def test_keys_are_read_and_required_ones_must_be_there(tmp_path: Path) -> None:
    public = generate_key().public
    public.save(tmp_path / "key.pem")
    policy = signature_policy([tmp_path / "key.pem"], required=True)
    assert (policy.trusted, policy.required) == ((public,), True)
    assert signature_policy([], required=False).trusted == ()
    with pytest.raises(InvalidSettings, match="no key is trusted"):
        signature_policy([], required=True)
    with pytest.raises(InvalidSettings, match="can't be read"):
        signature_policy([tmp_path / "absent.pem"], required=False)


def test_traces_go_where_somebody_listens() -> None:
    traced("", "agent")
    with traces.span("off") as span:
        assert type(span) is traces.Span
    with pytest.raises(InvalidSettings, match="write http://host:4317"):
        traced("ftp://collector", "agent")
    traced("http://127.0.0.1:1", "agent")
    with traces.span("on") as span:
        assert type(span) is not traces.Span
