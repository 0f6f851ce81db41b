"""The gateway's place in the mesh: its certificate as files that Envoy follows, and whose tokens it takes."""

import asyncio
import json
import os
import secrets
from dataclasses import replace
from pathlib import Path

from chassis.access import PolicySnapshot
from chassis.app import App
from chassis.identity import Identity
from chassis.issuer import AuthIssuer
from services.inference.config import InferenceConfig
from services.inference.envoy import Endpoint, Gateway, TokenRules
from services.inference.envoy.access import CallRules

HOSTS = ("localhost", "127.0.0.1", "gateway")


def gateway_value(config: InferenceConfig) -> Gateway:
    """The gateway as configured; until the policy has arrived it takes no token."""
    listen = Endpoint.parse(config.gateway.address)
    return Gateway(
        directory=config.gateway.directory,
        tokens=TokenRules(issuer="", audience="", jwks=""),
        certificate=config.gateway.directory / "tls" / "certificate.pem",
        key=config.gateway.directory / "tls" / "key.pem",
        roots=config.gateway.directory / "tls" / "roots.pem",
        host=listen.host,
        port=listen.port,
        admin_port=config.gateway.admin_port,
        collector=collector_of(config.telemetry.otlp_endpoint),
        collector_roots=Path(certificate) if (certificate := config.telemetry.otlp_certificate) else None,
        sampling=config.telemetry.sample_ratio,
        holder_key=kept_key(config.gateway.directory / "holder.key"),
    )


def kept_key(path: Path) -> str:
    """The holder's key, made once: what is open at Envoy while this service is started anew still shows it."""
    if not path.exists():
        _replace(path, secrets.token_urlsafe(32).encode())
    return path.read_text()


def collector_of(url: str) -> Endpoint | None:
    """The collector of an OTLP endpoint; over TLS it is known by the host in that."""
    if not url:
        return None
    scheme, _, address = url.rstrip("/").rpartition("://")
    found = Endpoint.parse(address)
    return replace(found, name=found.host) if scheme == "https" else found


def token_rules(snapshot: PolicySnapshot, calls: CallRules) -> TokenRules:
    """The tokens that a policy accepts, and what their holders may call."""
    return TokenRules(
        issuer=snapshot.issuer,
        audience=snapshot.audience,
        jwks=json.dumps(snapshot.jwks, sort_keys=True),
        calls=calls,
    )


async def keep_certified(config: InferenceConfig, app: App, gateway: Gateway) -> None:
    """Gets the gateway's certificate, writes it where Envoy reads it, and keeps renewing it."""
    wanted = config.identity
    token_file = Path(config.gateway.join_token_file) if config.gateway.join_token_file else None
    host = Endpoint.parse(config.gateway.advertised).host if config.gateway.advertised else gateway.host
    identity = await Identity.obtain(
        issuer=AuthIssuer(
            auth_address=wanted.auth_address,
            auth_mesh_address=config.peers["auth"],
            trust_bundle_pem=await asyncio.to_thread(Path(wanted.trust_bundle).read_bytes),
        ),
        join_token=token_file.read_text().strip() if token_file is not None and token_file.exists() else "",
        hosts=tuple(dict.fromkeys((*HOSTS, host))),
        folder=Path(wanted.state_dir) / "gateway",
        clock=app.clock,
    )

    def write() -> None:
        if gateway.roots is not None:
            _replace(gateway.roots, identity.credentials.bundle_pem)
        _replace(gateway.key, identity.credentials.key_pem)
        _replace(gateway.certificate, identity.credentials.chain_pem)

    write()
    identity.on_change(write)
    app.loop("renew the gateway's certificate", identity.renew_forever)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    aside.rename(path)
