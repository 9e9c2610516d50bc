"""What proves where bytes come from: Ed25519 signatures and the keys behind them."""

from lite_llm.trust.signing import (
    ACCEPT_UNSIGNED,
    SIGNATURE_BYTES,
    PrivateKey,
    PublicKey,
    SignaturePolicy,
    generate_key,
)

__all__ = [
    "ACCEPT_UNSIGNED",
    "SIGNATURE_BYTES",
    "PrivateKey",
    "PublicKey",
    "SignaturePolicy",
    "generate_key",
]
