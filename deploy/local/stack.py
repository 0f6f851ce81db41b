"""What the one-machine stack consists of, and in which order it starts."""

import ssl
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import tomli_w

from chassis.clock import SystemClock
from deploy import tools
from deploy.local import bootstrap, probes
from deploy.local.component import Component
from deploy.local.configs import (
    NODES,
    PORT_NAMES,
    SERVICES,
    Settings,
    agent_settings,
    collector_settings,
    service_settings,
)
from deploy.local.etcd_certificates import OPERATOR, SERVER, EtcdCertificates
from deploy.local.home import Home
from deploy.local.ports import Ports
from deploy.local.supervisor import Plan
from lepton import profile

_MEMBERS: Final = {
    **{service: f"service/{service}" for service in SERVICES if service != "auth"},
    "gateway": "service/gateway",
    "collector": "service/collector",
    **{f"agent-{node}": f"agent/{node}" for node in NODES},
}


def plan(home: Home) -> Plan:
    """Everything to start, in order."""
    ports = Ports.choose(home.ports_file, PORT_NAMES)
    for service in SERVICES:
        _write_settings(home, service, service_settings(service, home, ports))
    for node in NODES:
        _write_settings(home, f"agent-{node}", agent_settings(node, home, ports))
    _write_settings(home, "collector", collector_settings(home, ports))
    _write_profile(home, ports)
    return [
        [_etcd(home, ports)],
        partial(bootstrap.initialise_auth, home),
        [_service("auth", home, ports), partial(bootstrap.admit, home, _MEMBERS)],
        [
            *(_service(name, home, ports) for name in SERVICES if name not in ("auth", "inference")),
            _inference(home, ports),
            _collector(home, ports),
        ],
        partial(bootstrap.furnish, home, ports),
        [_gateway(home, ports), *(_agent(node, home, ports) for node in NODES)],
    ]


def _etcd(home: Home, ports: Ports) -> Component:
    """Everybody shows a certificate: its clients, and the other members if there were any."""
    client, peer = f"https://{ports.address('etcd-client')}", f"https://{ports.address('etcd-peer')}"
    made = EtcdCertificates(home.etcd_certificates)
    made.make(SERVICES, SystemClock())
    own, key, ca = str(made.certificate(SERVER)), str(made.key(SERVER)), str(made.ca)
    argv = [
        str(tools.etcd()),
        *("--name", "lepton", "--data-dir", str(home.root / "etcd"), "--log-level", "warn"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"lepton={peer}"),
        *("--cert-file", own, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", ca),
        *("--peer-cert-file", own, "--peer-key-file", key, "--peer-client-cert-auth", "--peer-trusted-ca-file", ca),
        *("--auto-compaction-mode", "periodic", "--auto-compaction-retention", "10m"),
    ]
    ready = probes.http_ok(ports.address("etcd-client"), "/health", partial(probes.mutual, made.tls(OPERATOR)))
    return Component(name="etcd", argv=tuple(argv), log=home.log("etcd"), is_ready=ready)


def _collector(home: Home, ports: Ports) -> Component:
    """A member of the mesh, which starts after auth; until then spans are lost, of which there are none to speak of."""
    trusted = partial(ssl.create_default_context, cafile=home.trust_bundle)
    return Component(
        name="collector",
        argv=(sys.executable, "-m", "deploy.telemetry.collector", "--config", str(home.config("collector"))),
        log=home.log("collector"),
        is_ready=probes.http_ok(ports.address("otlp-http"), "/healthz", trusted),
    )


def _service(name: str, home: Home, ports: Ports) -> Component:
    return Component(
        name=name,
        argv=(sys.executable, "-m", f"services.{name}", "--config", str(home.config(name))),
        log=home.log(name),
        is_ready=probes.serving(ports.address(f"{name}-admin")),
    )


def _inference(home: Home, ports: Ports) -> Component:
    """It is ready when Envoy can start too: when it has written the last of the gateway's files."""
    service = _service("inference", home, ports)
    return replace(service, is_ready=probes.every(service.is_ready, probes.exists(_gateway_start(home))))


def _gateway_start(home: Home) -> Path:
    return home.root / "gateway" / "bootstrap.json"


def _gateway(home: Home, ports: Ports) -> Component:
    """Envoy, by the files that the inference service writes."""
    folder = home.root / "gateway"
    argv = [
        *(str(tools.envoy()), "--config-path", str(_gateway_start(home)), "--disable-hot-restart"),
        *("--admin-address-path", str(folder / "admin.address")),
        *("--concurrency", "2", "--drain-time-s", "5", "--log-level", "warning"),
    ]
    ready = probes.http_ok(ports.address("gateway-admin"), "/ready")
    return Component(name="gateway", argv=tuple(argv), log=home.log("gateway"), is_ready=ready)


def _agent(node: str, home: Home, ports: Ports) -> Component:
    name = f"agent-{node}"
    return Component(
        name=name,
        argv=(sys.executable, "-m", "services.agent", "--config", str(home.config(name))),
        log=home.log(name),
        is_ready=probes.http_ok(ports.address(f"{name}-metrics"), "/metrics"),
        stop_s=20.0,
    )


def _write_settings(home: Home, name: str, settings: Settings) -> None:
    file = home.config(name)
    aside = file.with_suffix(".new")
    aside.write_text(tomli_w.dumps(settings))
    aside.replace(file)


def _write_profile(home: Home, ports: Ports) -> None:
    profile.write(
        home.profile_file,
        profile.Profile(
            auth=ports.address("auth-client"),
            scheduler=ports.address("scheduler-client"),
            trainer=ports.address("trainer-client"),
            inference=ports.address("inference-client"),
            gateway=ports.address("gateway"),
            traces=f"https://{ports.address('otlp-http')}",
            otlp=f"https://{ports.address('otlp-grpc')}",
            trust_bundle=home.trust_bundle,
            project=profile.chosen_project(home.profile_file) or profile.DEFAULT_PROJECT,
        ),
    )
