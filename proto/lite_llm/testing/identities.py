"""Who is who in a control plane for tests: certificates, tokens, and kubeconfigs made of them."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import trustme

ADMIN_GROUP = "system:masters"


class Identities:
    """A certificate authority for the apiserver at ``url``, with its files in ``directory``."""

    def __init__(self, directory: Path, *, host: str, url: str) -> None:
        self._directory = directory
        self._url = url
        self._authority = trustme.CA()
        self.ca_file = directory / "ca.crt"
        self._authority.cert_pem.write_to_path(self.ca_file)
        self.server_file = directory / "apiserver.pem"
        server = self._authority.issue_cert(host, "localhost", "kubernetes.default.svc")
        server.private_key_and_cert_chain_pem.write_to_path(self.server_file)
        self.accounts_file = directory / "service-accounts.key"
        """Signs the tokens of ServiceAccounts, and so verifies them."""
        signer = self._authority.issue_cert("service-accounts")
        signer.private_key_pem.write_to_path(self.accounts_file)
        self.token = os.urandom(16).hex()
        self.tokens_file = directory / "tokens.csv"
        self.tokens_file.write_text(f"{self.token},admin,admin,{ADMIN_GROUP}\n")

    def kubeconfig_for_user(self, user: str, group: str | None) -> Path:
        """A kubeconfig with a certificate: common name the user, organization the group."""
        certificate = self._authority.issue_cert(
            "client.invalid",
            common_name=user,
            organization_name=group or "system:authenticated",  # a group that every user is in
        )
        login = {
            "client-certificate-data": _base64(certificate.cert_chain_pems[0].bytes()),
            "client-key-data": _base64(certificate.private_key_pem.bytes()),
        }
        return self._write(f"user-{user}-{group or ''}", login)

    def kubeconfig_for_token(self, name: str, token: str) -> Path:
        """A kubeconfig with a bearer token."""
        return self._write(name, {"token": token})

    def _write(self, name: str, login: Mapping[str, str]) -> Path:
        cluster = {
            "server": self._url,
            "certificate-authority-data": _base64(self.ca_file.read_bytes()),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": dict(login)}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path = self._directory / f"{re.sub(r'[^a-z0-9.-]', '_', name)}.kubeconfig"
        path.write_text(json.dumps(config))  # JSON is YAML
        return path


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
