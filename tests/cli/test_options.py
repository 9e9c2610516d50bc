from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lite_llm.cli.options import registry_settings, store_settings, tls_files
from lite_llm.contracts.errors import InvalidSettings

NO_FILES: dict[str, Any] = {"ca": None, "cert": None, "key": None, "user": ""}
CA, CERT, KEY = Path("ca.pem"), Path("cert.pem"), Path("key.pem")


@pytest.mark.parametrize(
    ("urls", "endpoints"),
    [
        ("", ()),
        ("http://127.0.0.1:2379", ("127.0.0.1:2379",)),
        ("a:1,http://b:2/,[::1]:3", ("a:1", "b:2", "[::1]:3")),
    ],
)
def test_etcd_is_named_by_urls(urls: str, endpoints: tuple[str, ...]) -> None:
    settings = store_settings(urls, **NO_FILES)
    assert settings.endpoints == endpoints
    assert settings.tls is None


def test_etcd_with_tls_and_a_user() -> None:
    settings = store_settings("https://a:1", ca=CA, cert=CERT, key=KEY, user="root:a:b")
    assert settings.endpoints == ("a:1",)
    assert settings.tls is not None
    assert (settings.tls.authority, settings.tls.certificate, settings.tls.key) == (CA, CERT, KEY)
    assert (settings.user, settings.password) == ("root", "a:b")


@pytest.mark.parametrize(
    ("urls", "files"),
    [
        ("ftp://a:1", {}),
        ("http://a", {}),
        ("http://[::1", {}),
        ("a:b", {}),
        ("a:1,,b:2", {}),
        ("http://a:1/path", {}),
        ("https://a:1", {}),
        ("https://a:1,http://b:2", {"ca": CA}),
        ("http://a:1", {"ca": CA}),
        ("https://a:1", {"ca": CA, "cert": CERT}),
        ("http://a:1", {"user": ":secret"}),
    ],
)
def test_what_can_t_be_meant_is_refused(urls: str, files: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings) as caught:
        store_settings(urls, **{**NO_FILES, **files})
    assert caught.value.remedy


def test_mutual_tls_needs_all_files() -> None:
    assert tls_files(None, None, None, "") is None
    files = tls_files(CA, CERT, KEY, "lite-llm.internal")
    assert files is not None
    assert (files.certificate, files.server_name) == (CERT, "lite-llm.internal")
    with pytest.raises(InvalidSettings, match="--tls-ca"):
        tls_files(CA, None, KEY, "")


def test_the_registry_is_there_when_it_is_named(tmp_path: Path) -> None:
    assert registry_settings(None, None) is None
    settings = registry_settings(["s3://first/x", "gs://second"], tmp_path)
    assert settings is not None
    assert settings.stores == ("s3://first/x", "gs://second")
