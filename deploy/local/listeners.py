"""Which listening sockets of a stack do without TLS, and why; all others have it. A test holds a running stack to it.

All of these are on the loopback address: whoever reaches one is on the machine already.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Plaintext:
    """Sockets of one kind."""

    component: str
    """The stack's component whose process, or whose descendant, listens; `*` at the end stands for any rest."""
    listener: str
    """The listener's name in `ports.json`; for ports that are not chosen there, the name of the process."""
    reason: str


PLAINTEXT: Final = (
    Plaintext(component="gateway", listener="admin", reason="Envoy's administration, which speaks no TLS"),
    Plaintext(
        component="*",
        listener="admin",
        reason="health, channelz and reflection for the supervisor and whoever is on the machine; changes nothing",
    ),
    Plaintext(component="*", listener="metrics", reason="a page for Prometheus on the machine; changes nothing"),
    Plaintext(
        component="agent-*",
        listener="tritonserver",
        reason="Triton's page of metrics speaks no TLS; its gRPC does, and its HTTP is off",
    ),
    Plaintext(
        component="agent-*",
        listener="python",
        reason="torch's TCPStore and gloo between ranks: the wheels are built without TLS (USE_GLOO_WITH_OPENSSL=OFF)",
    ),
)


def exception(component: str, listener: str) -> Plaintext | None:
    """The entry of the table that a socket falls under; None = it must have TLS."""
    return next((each for each in PLAINTEXT if _is(component, each.component) and each.listener == listener), None)


def _is(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
