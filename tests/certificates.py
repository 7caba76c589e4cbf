"""Certificates and keys made for one test, as an authority would make them for C2PA."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vidinvert.types import Credentials

USES = (
    *("content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True, kw_only=True)
class Authority:
    """Who vouches for signers; `anchor` is its own certificate as PEM."""

    key: Any
    anchor: str


def new_authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    return Authority(key=key, anchor=certificate("Authority", key, key, days=30))


def certificate(name: str, key: Any, issuer: Any, *, days: int) -> str:
    """A certificate for `key`; one that issues itself may vouch for others."""
    own = key is issuer
    now = datetime.now(UTC)
    chosen = {"digital_signature": True, "key_cert_sign": own, "crl_sign": own}
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("Authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**chosen, **dict.fromkeys(USES, False)), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if not own:
        use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(use, critical=False)
    signed = builder.sign(issuer, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def _name(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
        ]
    )


def write_credentials(
    directory: Path,
    authority: Authority,
    *,
    key: Any = None,
    days: int = 30,
    password: bytes | None = None,
) -> Credentials:
    """Write a signer's chain and key; a P-256 key unless another is given."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    chain, private = directory / "chain.pem", directory / "key.pem"
    chain.write_text(certificate("Signer", key, authority.key, days=days) + authority.anchor)
    lock = serialization.BestAvailableEncryption(password) if password else None
    usual = serialization.PrivateFormat.TraditionalOpenSSL  # as openssl writes it
    modern = serialization.PrivateFormat.PKCS8
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            modern if isinstance(key, ed25519.Ed25519PrivateKey) else usual,
            lock or serialization.NoEncryption(),
        )
    )
    return Credentials(certificates=chain, key=private)
