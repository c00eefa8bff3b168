"""The keys of one run: the guest's host key, and the key that it accepts."""

from __future__ import annotations

import io
from dataclasses import dataclass

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key: ``private`` as OpenSSH's PEM file, ``public`` as ``ssh-ed25519 AAAA...``."""

    private: str
    public: str

    @classmethod
    def generate(cls) -> KeyPair:
        """Make a new key."""
        made = Ed25519PrivateKey.generate()
        pem = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
        loaded = paramiko.Ed25519Key(file_obj=io.StringIO(pem))
        return cls(pem, f"{loaded.get_name()} {loaded.get_base64()}")

    def load(self) -> paramiko.PKey:
        """Return the key as an object of paramiko's."""
        return paramiko.Ed25519Key(file_obj=io.StringIO(self.private))
