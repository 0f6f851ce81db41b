"""How to trust etcd, and how to be trusted by it: files of PEM certificates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """The CA that signed etcd's certificate, and our own certificate where etcd asks for one."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""  # the name in etcd's certificate, where it is not the one dialled

    @classmethod
    def of_files(cls, ca: str, certificate: str, key: str) -> Self | None:
        """From settings, where an empty path is none; without a CA None: plaintext, for loopback only."""
        if not ca:
            if certificate or key:
                raise ValueError("a certificate for etcd needs etcd's CA too: set it, or neither of the three")
            return None
        return cls(ca=Path(ca), certificate=Path(certificate) if certificate else None, key=Path(key) if key else None)

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("tls.certificate and tls.key go together: give both or neither")
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca.read_bytes(),
            private_key=self.key.read_bytes() if self.key else None,
            certificate_chain=self.certificate.read_bytes() if self.certificate else None,
        )
