"""Volumes as files: what lies where, with which mode, and what must be fetched for it."""

from typing import Any

import pytest

from lite_llm.testing.kubelet.environment import Place, Sources, Unstartable
from lite_llm.testing.kubelet.volumes import File, files_of, references

POD: dict[str, Any] = {
    "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}},
    "spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": "2"}}}]},
}
PLACE = Place("node-1", "198.18.0.2", "198.18.0.7")
SOURCES = Sources(
    config_maps={"settings": {"data": {"a": "1", "b": "2"}}},
    secrets={"hidden": {"data": {"key": "c2VjcmV0"}}},
    tokens={"": "for-the-apiserver", "vault": "for-the-vault"},
)


def files(**volume: Any) -> dict[str, File]:
    return files_of({"name": "v", **volume}, POD, PLACE, SOURCES)


def test_a_config_map_is_its_keys() -> None:
    assert files(configMap={"name": "settings"}) == {"a": File(b"1"), "b": File(b"2")}


def test_items_choose_paths_and_modes() -> None:
    items = [{"key": "a", "path": "deep/er/a.txt"}, {"key": "b", "path": "b", "mode": 0o600}]
    found = files(configMap={"name": "settings", "items": items, "defaultMode": 0o400})
    assert found == {"deep/er/a.txt": File(b"1", 0o400), "b": File(b"2", 0o600)}


def test_a_secret_is_decoded() -> None:
    assert files(secret={"secretName": "hidden"}) == {"key": File(b"secret")}


def test_what_is_optional_may_be_absent() -> None:
    assert files(secret={"secretName": "nothing", "optional": True}) == {}
    items = [{"key": "zzz", "path": "z"}]
    assert files(configMap={"name": "settings", "items": items, "optional": True}) == {}


def test_a_projected_volume_gathers_its_sources() -> None:
    fields = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}},
    ]
    sources = [
        {"serviceAccountToken": {"path": "token"}},
        {"serviceAccountToken": {"path": "vault", "audience": "vault"}},
        {"configMap": {"name": "settings", "items": [{"key": "a", "path": "a"}]}},
        {"secret": {"name": "hidden"}},
        {"downwardAPI": {"items": fields}},
    ]
    assert files(projected={"sources": sources}) == {
        "token": File(b"for-the-apiserver"),
        "vault": File(b"for-the-vault"),
        "a": File(b"1"),
        "key": File(b"secret"),
        "labels": File(b'app="web"'),
        "cpu": File(b"2"),
    }


def test_other_volumes_hold_no_files_of_ours() -> None:
    assert files(emptyDir={}) == {}
    assert files(hostPath={"path": "/srv"}) == {}


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "nothing"}}, 'configmap "nothing" not found'),
        ({"secret": {"secretName": "hidden", "items": [{"key": "z", "path": "z"}]}}, "key z"),
        ({"persistentVolumeClaim": {"claimName": "disk"}}, "v is a persistentVolumeClaim"),
        ({"projected": {"sources": [{"moon": {}}]}}, "moon"),
    ],
)
def test_what_cannot_be_had_is_told(volume: dict[str, Any], message: str) -> None:
    with pytest.raises(Unstartable, match=message):
        files(**volume)


def test_all_that_a_pod_names_is_found() -> None:
    spec = {
        "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "map-1"}}]}],
        "containers": [
            {
                "name": "c",
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "secret-1", "key": "k"}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "map-2", "key": "k"}}},
                ],
            }
        ],
        "volumes": [
            {"name": "a", "configMap": {"name": "map-3"}},
            {"name": "b", "secret": {"secretName": "secret-2"}},
            {"name": "c", "emptyDir": {}},
            {
                "name": "d",
                "projected": {
                    "sources": [
                        {"secret": {"name": "secret-3"}},
                        {"serviceAccountToken": {"path": "t", "expirationSeconds": 7200}},
                        {"serviceAccountToken": {"path": "v", "audience": "vault"}},
                    ]
                },
            },
        ],
    }
    found = references({"spec": spec})
    assert found.config_maps == {"map-1", "map-2", "map-3"}
    assert found.secrets == {"secret-1", "secret-2", "secret-3"}
    assert found.tokens == {"": 7200, "vault": 3600}
