"""Ed25519 signatures: standard files, standard bytes, and a policy that can insist."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_llm.contracts.errors import Conflict, Corrupt, Forbidden, InvalidSettings
from lite_llm.trust import ACCEPT_UNSIGNED, PrivateKey, PublicKey, SignaturePolicy, generate_key

# RFC 8032, section 7.1, test 2.
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_the_standards_own_example(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(SECRET)
    key = PrivateKey.load(tmp_path / "key")
    assert key.public.raw == PUBLIC
    assert key.sign(b"\x72") == SIGNATURE
    assert PublicKey(PUBLIC).verifies(SIGNATURE, b"\x72")


def test_keys_survive_their_files(tmp_path: Path) -> None:
    key = generate_key()
    key.save(tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert PrivateKey.load(tmp_path / "key.pem").public == key.public
    (tmp_path / "public.pem").write_bytes(key.public.pem)
    (tmp_path / "public.raw").write_bytes(key.public.raw)
    assert PublicKey.load(tmp_path / "public.pem") == key.public
    assert PublicKey.load(tmp_path / "public.raw") == key.public
    assert len(key.public.fingerprint) == 16
    with pytest.raises(Conflict, match="exists"):
        key.save(tmp_path / "key.pem")


def test_openssl_agrees(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    assert openssl, "install openssl to run this test"
    key = generate_key()
    for name, data in (("k", key.public.pem), ("data", b"hello"), ("sig", key.sign(b"hello"))):
        (tmp_path / name).write_bytes(data)
    command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", "k", "-rawin", "-in", "data"]
    command += ["-sigfile", "sig"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.parametrize("content", [b"", b"short", b"-----BEGIN PRIVATE KEY-----\nAA==\n", None])
def test_what_is_no_key_is_refused_by_path(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    for load in (PrivateKey.load, PublicKey.load):
        with pytest.raises(InvalidSettings, match=str(tmp_path / "key")):
            load(tmp_path / "key")


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    key = generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key").write_bytes(pem)
    with pytest.raises(InvalidSettings, match="no Ed25519 private key"):
        PrivateKey.load(tmp_path / "key")


@settings(deadline=None, max_examples=30)
@given(data=st.binary(min_size=1, max_size=64), bit=st.integers(0, 64 * 8 - 1))
def test_a_flipped_bit_is_found_in_data_and_signature(data: bytes, bit: int) -> None:
    key = PrivateKey.load_raw(SECRET)
    signature = key.sign(data)
    policy = SignaturePolicy(trusted=(key.public,), required=True)
    policy.check(data, signature, where="x")
    for flipped_data, flipped_signature in (
        (data, flip(signature, bit)),
        (flip(data, bit % (len(data) * 8)), signature),
    ):
        with pytest.raises(Corrupt, match="no trusted key"):
            policy.check(flipped_data, flipped_signature, where="x")


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_policy_that_requires_signatures_needs_keys_and_signatures() -> None:
    key = generate_key()
    with pytest.raises(InvalidSettings, match="no key is trusted"):
        SignaturePolicy(required=True)
    with pytest.raises(Forbidden, match="not signed"):
        SignaturePolicy(trusted=(key.public,), required=True).check(b"", None, where="x")
    SignaturePolicy(trusted=(key.public,)).check(b"", None, where="x")
    ACCEPT_UNSIGNED.check(b"", bytes(64), where="x")
    with pytest.raises(Corrupt, match="3 bytes"):
        ACCEPT_UNSIGNED.check(b"", b"abc", where="x")


def test_any_trusted_key_will_do() -> None:
    first, second = generate_key(), generate_key()
    policy = SignaturePolicy(trusted=(first.public, second.public), required=True)
    policy.check(b"data", second.sign(b"data"), where="x")
