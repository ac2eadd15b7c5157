"""An authority of the tests' own, and what it has signed."""

from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

HOST = "127.0.0.1"


class Certificates:
    """PEM files in a directory.

    `authority`: whose signature to trust. `server`: key and certificate of servers on loopback, in one file.
    `client_certificate`, `client_key`: of one who is let in by them. `stranger`: an authority that has signed nothing.
    """

    def __init__(self, directory: Path) -> None:
        """Make all of them."""
        authority = trustme.CA()
        self.authority = directory / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        self.server = directory / "server.pem"
        _write(authority.issue_cert(HOST), self.server, self.server)
        self.client_certificate, self.client_key = directory / "client.pem", directory / "client.key"
        _write(authority.issue_cert("lern@example.org"), self.client_certificate, self.client_key)
        self.stranger = directory / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(str(self.stranger))


def _write(made: trustme.LeafCert, certificate: Path, key: Path) -> None:
    """Write certificate and key; the key in the one form that Java reads, too."""
    private = load_pem_private_key(made.private_key_pem.bytes(), None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with certificate.open("ab" if key == certificate else "wb") as file:
        for part in made.cert_chain_pems:
            file.write(part.bytes())
