"""A file of keys: read, refused, and read again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lite_llm.contracts import ModelRef
from lite_llm.contracts.errors import Forbidden, InvalidSettings, Unauthenticated
from lite_llm.proto.v1 import model_pb2
from lite_llm.proto.v1.generate_pb2 import GenerateStart, TierSelection
from lite_llm.tenants import ANYBODY, Keys, Tenant, open_keys
from lite_llm.tenants.keyfile import RELOAD_SECONDS


def hashed(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def write(path: Path, *tenants: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"tenants": tenants}))
    return path


ACME = {"name": "acme", "keys": [hashed("sk-a"), hashed("sk-b")]}
OTHER = {"name": "other", "keys": [hashed("sk-o")]}


def test_a_key_tells_its_tenant(tmp_path: Path) -> None:
    keys = open_keys(write(tmp_path / "keys", ACME, OTHER))
    assert keys.tenant("Bearer sk-a").name == keys.tenant("bearer  sk-b ").name == "acme"
    assert keys.tenant("Bearer sk-o").name == "other"
    for wrong in ("", "sk-a", "Basic sk-a", "Bearer", "Bearer sk-", f"Bearer {hashed('sk-a')}",
                  "Bearer \udcff", "Bearer sk-a sk-a"):  # fmt: skip
        with pytest.raises(Unauthenticated):
            keys.tenant(wrong)


def test_yaml_is_read_and_no_file_lets_anybody_in(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(f"tenants:\n- name: acme\n  keys:\n  - {hashed('sk-a')}\n  weight: 2\n")
    assert open_keys(path).tenant("Bearer sk-a").weight == 2
    assert open_keys(None).tenant("") is ANYBODY


@pytest.mark.parametrize(
    ("tenants", "words"),
    [
        ([{**ACME, "weight": 0}], "weight"),
        ([{**ACME, "keys": ["sk-in-the-clear"]}], "keys"),
        ([{**ACME, "modles": []}], "modles"),
        ([ACME, ACME], "two tenants"),
        ([ACME, {**ACME, "name": "b"}], "gives one key to acme and b"),
        ([{**ACME, "name": ""}], "two tenants, or none"),
        ([{**ACME, "name": "../x"}], "name"),
    ],
)
def test_a_wrong_file_is_refused_by_what_is_wrong(
    tmp_path: Path, tenants: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(InvalidSettings, match=words):
        open_keys(write(tmp_path / "keys", *tenants))
    with pytest.raises(InvalidSettings, match="can't be read"):
        open_keys(tmp_path / "missing")


def test_the_file_is_followed_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    now, path = 0.0, write(tmp_path / "keys", ACME)
    keys = Keys(path, lambda: now)

    def change(text: str) -> None:
        nonlocal now
        fresh = tmp_path / "fresh"
        fresh.write_text(text)
        fresh.replace(path)
        now += RELOAD_SECONDS

    for broken in ("tenants: [", "tenants: 2026-99-99", "[" * 5000):
        change(broken)
        assert keys.tenant("Bearer sk-a").name == "acme"
    change(json.dumps({"tenants": [OTHER]}))
    with pytest.raises(Unauthenticated):
        keys.tenant("Bearer sk-a")
    assert keys.tenant("Bearer sk-o").name == "other"
    path.unlink()
    now += RELOAD_SECONDS
    assert keys.tenant("Bearer sk-o").name == "other"


def test_a_mounted_secret_is_followed(tmp_path: Path) -> None:
    """Kubernetes mounts a secret behind two links, and swaps the first for all its files."""

    def mount(version: str, *tenants: dict[str, Any]) -> None:
        (tmp_path / version).mkdir()
        write(tmp_path / version / "keys.yaml", *tenants)
        (tmp_path / "..new").symlink_to(version)
        (tmp_path / "..new").replace(tmp_path / "..data")

    mount("..1", ACME)
    path = tmp_path / "keys.yaml"
    path.symlink_to("..data/keys.yaml")
    now = 0.0
    keys = Keys(path, lambda: now)
    assert keys.tenant("Bearer sk-a").name == "acme"
    mount("..2", OTHER)
    now += RELOAD_SECONDS
    with pytest.raises(Unauthenticated):
        keys.tenant("Bearer sk-a")
    assert keys.tenant("Bearer sk-o").name == "other"


def test_a_file_that_could_not_be_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, path = 0.0, write(tmp_path / "keys", ACME)
    keys = Keys(path, lambda: now)
    write(path, OTHER)

    def fail(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        now += RELOAD_SECONDS
        assert keys.tenant("Bearer sk-a").name == "acme"
    now += RELOAD_SECONDS
    with pytest.raises(Unauthenticated):
        keys.tenant("Bearer sk-a")
    assert keys.tenant("Bearer sk-o").name == "other"


def test_a_request_is_stamped_with_what_its_tenant_may() -> None:
    tenant = Tenant(name="acme", models=("team/*", "default/tiny"), tier_sets=("fast", "law-*"))
    assert tenant.sees(ModelRef("team", "big"))
    assert tenant.sees(ModelRef("default", "tiny"))
    assert not tenant.sees(ModelRef("default", "big"))
    start = GenerateStart(tenant="somebody else", priority=50)
    start.tiers.CopyFrom(TierSelection(mode=model_pb2.TIER_MODE_FAST, tiers=["law-eu"]))
    tenant.stamp(start)
    assert (start.tenant, start.priority) == ("acme", 0)
    for wrong in (TierSelection(mode=model_pb2.TIER_MODE_MAX), TierSelection(tiers=["medicine"])):
        start.tiers.CopyFrom(wrong)
        with pytest.raises(Forbidden, match="acme"):
            tenant.stamp(start)
    with pytest.raises(Forbidden):
        tenant.check_admin()
