"""The settings of every process of the stack, rendered from where it lives and which ports it has; pure."""

from typing import Any, Final

from deploy import tools
from deploy.local.etcd_certificates import EtcdCertificates
from deploy.local.home import Home
from deploy.local.ports import Ports
from lepton.artifacts.location import PROJECT_KEYS

Settings = dict[str, Any]

SERVICES: Final = ("auth", "scheduler", "trainer", "inference")
ISSUER: Final = "https://lepton.local"
AUDIENCE: Final = "lepton"
GIB: Final = 1 << 30

NODES: Final[dict[str, tuple[str, int]]] = {
    "general-1": ("general", 2),
    "general-2": ("general", 2),
    "fast-1": ("performance", 4),
}
"""The stack's nodes: their pool, and how many virtual devices each declares."""

PORT_NAMES: Final = (
    "etcd-client",
    "etcd-peer",
    "otlp-grpc",
    "otlp-http",
    "gateway",
    "gateway-admin",
    *(f"{service}-{listener}" for service in SERVICES for listener in ("client", "mesh", "admin", "metrics")),
    *(f"agent-{node}-{listener}" for node in NODES for listener in ("admin", "metrics")),
)


def service_settings(name: str, home: Home, ports: Ports) -> Settings:
    """What a control-plane service is told."""
    return {**_common(name, home, ports, listeners=("client", "mesh", "admin", "metrics")), **_OWN[name](home, ports)}


def agent_settings(node: str, home: Home, ports: Ports) -> Settings:
    """What the agent of a node is told; the nodes share one machine, so each declares what it may use of it."""
    pool, devices = NODES[node]
    triton = tools.triton()
    common = _common(f"agent-{node}", home, ports, listeners=("admin", "metrics"))
    common["listen"] |= {"client": "", "mesh": ""}
    return {
        **common,
        "node": node,
        "pool": pool,
        "state_dir": str(home.state(f"agent-{node}")),
        "artifacts": artifacts(home),
        "cpu_milli": 8000,
        "memory_bytes": 8 * GIB,
        "devices": [{"model": "virtual", "memory_bytes": 16 * GIB}] * devices,
        "isolation": {"hidden": [str(home.root / name) for name in ("secrets", "state", "etcd", "config")]},
        "collector": f"https://{ports.address('otlp-http')}",
        "triton": {
            "server": str(triton.server),
            "backends": str(triton.backends),
            "libs": str(triton.libs),
            "python_path": str(triton.python_path),
        },
    }


def collector_settings(home: Home, ports: Ports) -> Settings:
    """What the trace collector is told."""
    common = _common("collector", home, ports, listeners=())
    return {
        "telemetry": {"log_form": common["telemetry"]["log_form"]},  # of itself it tells no spans
        "identity": common["identity"],
        "peers": {"auth": common["peers"]["auth"]},
        "database": str(home.root / "traces.sqlite"),
        "grpc": ports.address("otlp-grpc"),
        "http": ports.address("otlp-http"),
    }


def artifacts(home: Home) -> str:
    """The artifact store, where each project's artifacts are sealed with its own keys."""
    return f"{home.artifacts.as_uri()}#{PROJECT_KEYS}"


def join_token_file(name: str, home: Home) -> str:
    """Where a member of the mesh finds its one-time token."""
    return str(home.root / "secrets" / f"{name}.join-token")


def _common(name: str, home: Home, ports: Ports, *, listeners: tuple[str, ...]) -> Settings:
    return {
        "listen": {listener: ports.address(f"{name}-{listener}") for listener in listeners},
        "telemetry": {
            "otlp_endpoint": f"https://{ports.address('otlp-grpc')}",
            "sample_ratio": 0.01,
            "log_form": "json",
        },
        "identity": {
            "state_dir": str(home.state(name) / "identity"),
            "trust_bundle": str(home.trust_bundle),
            "auth_address": ports.address("auth-client"),
            "join_token_file": join_token_file(name, home),
        },
        "peers": {service: ports.address(f"{service}-mesh") for service in SERVICES},
    }


def _auth(home: Home, ports: Ports) -> Settings:
    certificates = EtcdCertificates(home.etcd_certificates)
    return {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "kek_file": str(home.root / "secrets" / "kek"),
        "project_keys": {"keyring_file": str(home.root / "secrets" / "keyring")},
        "bootstrap_password_file": str(home.admin_password),
        "etcd": {
            "endpoints": [ports.address("etcd-client")],
            "ca_file": str(certificates.ca),
            "certificate_file": str(certificates.certificate("auth")),
            "key_file": str(certificates.key("auth")),
        },
    }


def _etcd(name: str, home: Home, ports: Ports) -> Settings:
    certificates = EtcdCertificates(home.etcd_certificates)
    return {
        "etcd_endpoints": [ports.address("etcd-client")],
        "etcd_ca": str(certificates.ca),
        "etcd_cert": str(certificates.certificate(name)),
        "etcd_key": str(certificates.key(name)),
    }


def _scheduler(home: Home, ports: Ports) -> Settings:
    return _etcd("scheduler", home, ports)


def _trainer(home: Home, ports: Ports) -> Settings:
    return {
        **_etcd("trainer", home, ports),
        "artifacts": artifacts(home),
        "journals": str(home.root / "journals"),
    }


def _inference(home: Home, ports: Ports) -> Settings:
    return {
        **_etcd("inference", home, ports),
        "artifacts": artifacts(home),
        "gateway": {
            "directory": str(home.root / "gateway"),
            "address": ports.address("gateway"),
            "admin_port": ports["gateway-admin"],
            "join_token_file": join_token_file("gateway", home),
        },
    }


_OWN: Final = {"auth": _auth, "scheduler": _scheduler, "trainer": _trainer, "inference": _inference}
