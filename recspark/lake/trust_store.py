"""The machine's own certificate authorities as a Java key store, for a Java that brings a list of its own.

A pip-installed Java knows the public authorities only; where a company's proxy signs what it passes on, fetching jars
would fail although pip and git work. Format: JKS version 2 (trusted certificates only), as `keytool` writes it.
"""

import hashlib
import os
import re
import ssl
import struct
from pathlib import Path

PASSWORD = "changeit"  # Java's usual one: it guards against damage, not against readers

_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_MAGIC, _VERSION, _TRUSTED = 0xFEEDFEED, 2, 2


def find_bundle() -> Path | None:
    """The PEM file with the authorities this machine trusts: $SSL_CERT_FILE, Python's own, or a usual place."""
    named = [os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_BUNDLES]
    return next((Path(name) for name in named if name and Path(name).is_file()), None)


def build_trust_store(pem: str) -> bytes:
    """A JKS key store with every certificate of a PEM text."""
    ders = [ssl.PEM_cert_to_DER_cert(text) for text in _CERTIFICATE.findall(pem)]
    body = struct.pack(">III", _MAGIC, _VERSION, len(ders))
    for number, der in enumerate(ders):
        alias = f"ca-{number}".encode()
        body += struct.pack(">IH", _TRUSTED, len(alias)) + alias + struct.pack(">QH", 0, 5) + b"X.509"
        body += struct.pack(">I", len(der)) + der
    return body + hashlib.sha1(PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + body).digest()
