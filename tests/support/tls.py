"""Certificates of an authority that exists for one test session, for servers on this machine."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files that a server and its clients need.

    Attributes:
        ca_file: what clients have to trust.
        server_file: the server's private key and certificate, one after the other.
    """

    ca_file: Path
    server_file: Path

    def client_context(self) -> ssl.SSLContext:
        """Make a context that trusts this authority and no other."""
        return ssl.create_default_context(cafile=self.ca_file)

    def server_context(self) -> ssl.SSLContext:
        """Make the context of a server in this process."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.server_file)
        return context


def certificates(folder: Path) -> Certificates:
    """Make an authority and a certificate for this machine's loopback names, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    made = Certificates(folder / "ca.pem", folder / "server.pem")
    authority.cert_pem.write_to_path(made.ca_file)
    authority.issue_cert(*NAMES).private_key_and_cert_chain_pem.write_to_path(made.server_file)
    return made
