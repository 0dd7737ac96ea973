"""Content Credentials (C2PA 2.x): signed metadata that say that a file is synthetic and which model made it; and signatures beside files.

The certificate chain and the private key (P-256, PKCS#8) come from the environment, as the path of a PEM file or as its text; the key is written
nowhere. Packages: `pip install '.[marks]'`.
"""

import base64
import importlib.util
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CERTIFICATE, PRIVATE_KEY = "GANPIPE_C2PA_CERTIFICATE", "GANPIPE_C2PA_KEY"
SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
PEM = "-----BEGIN "
SIGNATURE = ".signature.json"  # after the name of what is signed
INSTALL = "pip install '.[marks]'"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """
    Attributes:
        certificates: PEM, the signer's first, its issuers after it.
    """

    certificates: bytes
    private_key: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a file's metadata say.

    Attributes:
        is_valid: the file is as it was signed; whether the signer is to be trusted is for the reader to say.
        is_synthetic: it says so.
        model: name and version of what made it, "" where it does not say.
        signer: of the certificate, which may be anybody's.
    """

    is_valid: bool
    is_synthetic: bool
    model: str
    signer: str


def from_environment() -> Credentials | None:
    """None where neither of the two variables is set.

    Raises:
        ValueError: one without the other, no such file, or nothing that signs. The message names variables, not what they hold.
    """
    given = {name: os.environ.get(name, "") for name in (CERTIFICATE, PRIVATE_KEY)}
    if not any(given.values()):
        return None
    if missing := [name for name, value in given.items() if not value]:
        raise ValueError(f"{missing[0]} is not set, but {(set(given) - {missing[0]}).pop()} is; set both (paths of PEM files), or neither")
    read = {name: _read(name, value) for name, value in given.items()}
    credentials = Credentials(certificates=read[CERTIFICATE], private_key=read[PRIVATE_KEY])
    try:
        sign(credentials, b"")
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            f"{CERTIFICATE} and {PRIVATE_KEY} do not sign: expected a PEM chain and its P-256 key (PKCS#8, without a password)"
        ) from None
    return credentials


def _read(name: str, value: str) -> bytes:
    if value.startswith(PEM):
        return value.encode()
    try:
        return Path(value).read_bytes()
    except OSError as error:
        raise ValueError(f"{name} is no file that can be read ({error.strerror}); expected the path of a PEM file") from None


def require_package() -> None:
    """Raise ValueError where files cannot be signed for want of the package."""
    if importlib.util.find_spec("c2pa") is None:
        raise ValueError(f"{CERTIFICATE} is set, but c2pa-python is missing: {INSTALL}, or unset it")


def sign_png(credentials: Credentials, png: bytes, *, model: str, version: str, title: str) -> bytes:
    """The same picture with signed metadata, without a thumbnail; about 3 KB more.

    Raises:
        ValueError: the certificates are not what C2PA asks for, or the package is missing.
    """
    require_package()
    import c2pa

    created = {"action": "c2pa.created", "digitalSourceType": SYNTHETIC, "softwareAgent": {"name": model, "version": version}}
    manifest = {
        "claim_generator_info": [{"name": "ganpipe", "version": "0.1.0"}],
        "title": title,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }
    signed = io.BytesIO()
    try:
        settings = c2pa.Settings.from_dict({"builder": {"thumbnail": {"enabled": False}}})
        keys = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=credentials.certificates, private_key=credentials.private_key, ta_url=None)
        with c2pa.Signer.from_info(keys) as signer, c2pa.Builder(manifest, c2pa.Context(settings)) as builder:
            builder.sign(signer, "image/png", io.BytesIO(png), signed)
    except c2pa.C2paError as error:
        raise ValueError(f"{CERTIFICATE} does not sign as C2PA asks for it: {str(error).splitlines()[0]}") from None
    return signed.getvalue()


def read(kind: str, data: bytes) -> Claim | None:
    """What a file's metadata say; None without such metadata.

    Args:
        kind: "image/png" and the like.

    Raises:
        ValueError: the package is missing.
    """
    if importlib.util.find_spec("c2pa") is None:
        raise ValueError(f"c2pa-python is missing, which reads C2PA metadata: {INSTALL}")
    import c2pa

    try:
        reader = c2pa.Reader.try_create(kind, io.BytesIO(data))
    except c2pa.C2paError:
        return None
    if reader is None:
        return None
    with reader:
        told = json.loads(reader.json())
        is_valid = reader.get_validation_state() in ("Valid", "Trusted")
    manifest: dict[str, Any] = told.get("manifests", {}).get(told.get("active_manifest"), {})
    actions = [
        action
        for assertion in manifest.get("assertions", [])
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion["data"].get("actions", [])
    ]
    made = next((action for action in actions if action.get("digitalSourceType") == SYNTHETIC), None)
    agent = (made or {}).get("softwareAgent") or {}
    model = agent if isinstance(agent, str) else " ".join(str(agent[key]) for key in ("name", "version") if key in agent)
    signed = manifest.get("signature_info", {})
    signer = ", ".join(str(signed[key]) for key in ("common_name", "issuer") if signed.get(key))
    return Claim(is_valid=is_valid, is_synthetic=made is not None, model=model, signer=signer)


def sign(credentials: Credentials, data: bytes) -> bytes:
    """A signature to lie beside `data`: JSON with ECDSA over SHA-256 (ES256 of RFC 7518, in DER) and the certificates that check it.

    Raises:
        ValueError: key and certificate do not belong together, or are not P-256.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = serialization.load_pem_private_key(credentials.private_key, password=None)
    certificate = x509.load_pem_x509_certificates(credentials.certificates)[0]
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("the private key is not that of the first certificate")
    signature = key.sign(data, ec.ECDSA(hashes.SHA256()))
    told = {
        "algorithm": "ES256",
        "signature": base64.b64encode(signature).decode(),
        "certificates": credentials.certificates.decode(),
    }
    return (json.dumps(told, indent=1) + "\n").encode()


def signer_of(data: bytes, signature: bytes) -> str | None:
    """Who signed `data`; None where the signature is not of these bytes."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        told = json.loads(signature)
        certificate = x509.load_pem_x509_certificates(told["certificates"].encode())[0]
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return None
        key.verify(base64.b64decode(told["signature"]), data, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError, KeyError, TypeError):
        return None
    return certificate.subject.rfc4514_string()
