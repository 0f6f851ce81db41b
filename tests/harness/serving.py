"""Real serving for tests: a small ONNX model, Triton replicas of it, and an Envoy in front with tokens and TLS."""

import asyncio
import datetime
import ipaddress
import json
import time
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwk, jwt
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from chassis.identity import Identity
from deploy import tools
from lepton.golden import Golden
from lepton.models import Signature, Tensor
from services.agent.replica_settings import ReplicaSettings
from services.agent.replica_state import ReplicaEvent, ReplicaState
from services.agent.served_model import ServedModel
from services.agent.triton_replica import TritonReplica
from services.agent.triton_tls import ServingCertificate
from services.agent.triton_tools import TritonTools
from services.inference.envoy import Endpoint, EnvoyAdmin, Gateway, Routes, TokenRules, command, render, write
from services.inference.envoy.access import CallRules
from services.inference.triton_repository import CONFIG, ServingOptions
from services.inference.triton_repository import render as render_repository
from tests.harness.wait import until

SIGNATURE = Signature(
    inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 1, 8, 8)),),
    outputs=(Tensor(name="logits", datatype="FP32", shape=(-1, 10)),),
)
WEIGHTS = np.random.default_rng(7).normal(size=(64, 10)).astype(np.float32)


def triton_tools() -> TritonTools:
    """The Triton that `make setup` brought; skips the test where there is none."""
    try:
        found = tools.triton()
    except tools.ToolMissing as error:
        pytest.skip(str(error))
    return TritonTools(server=found.server, backends=found.backends, libs=found.libs, python_path=found.python_path)


def envoy_binary() -> Path:
    try:
        return tools.envoy()
    except tools.ToolMissing as error:
        pytest.skip(str(error))


def linear_model() -> bytes:
    """logits = flatten(x) W, with a free batch dimension."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def samples(rows: int, seed: int = 0) -> tuple[Any, Any]:
    """Inputs and what the linear model answers to them."""
    x = np.random.default_rng(seed).normal(size=(rows, 1, 8, 8)).astype(np.float32)
    return x, x.reshape(rows, 64) @ WEIGHTS


def served_model(name: str, options: ServingOptions | None = None, *, wrong: bool = False) -> ServedModel:
    """The linear model as the inference service would hand it to an agent; `wrong` expects other answers."""
    files = render_repository(name, linear_model(), SIGNATURE, options)
    x, logits = samples(16)
    golden = save({"x": x, "logits": logits + 1 if wrong else logits, "y": logits.argmax(axis=1)})
    return ServedModel(name=name, files=dict(files), golden=Golden.parse(golden, files[CONFIG].decode()))


@dataclass
class Replica:
    """A running replica, what it reported, and the task that is its life."""

    replica: TritonReplica
    events: list[ReplicaEvent] = field(default_factory=list)
    life: asyncio.Task[None] | None = None

    async def observe(self, event: ReplicaEvent) -> None:
        self.events.append(event)

    @property
    def state(self) -> ReplicaState | None:
        return self.events[-1].state if self.events else None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.parse(next(event for event in reversed(self.events) if event.endpoints).endpoints["grpc"])

    def count(self, state: ReplicaState) -> int:
        return sum(event.state is state for event in self.events)

    async def ready(self, times: int = 1, deadline_s: float = 30) -> None:
        def is_ready() -> bool:
            if self.life is not None and self.life.done():
                self.life.result()
            return self.count(ReplicaState.READY) >= times

        await until(is_ready, deadline_s)


@asynccontextmanager
async def replica(
    directory: Path,
    models: Sequence[ServedModel],
    settings: ReplicaSettings | None = None,
    certificate: ServingCertificate | None = None,
) -> AsyncIterator[Replica]:
    """A replica whose life ends with the block."""
    running = Replica(replica=None)  # type: ignore[arg-type]
    running.replica = TritonReplica(
        tools=triton_tools(),
        directory=directory,
        models=models,
        observe=running.observe,
        settings=settings,
        certificate=certificate,
    )
    running.life = asyncio.create_task(running.replica.run())
    try:
        yield running
    finally:
        running.life.cancel()
        await asyncio.gather(running.life, return_exceptions=True)


PRINCIPALS = {
    ("demo",): "users/ada",
    ("other",): "users/bob",
    ("acme",): "users/cyd",
    ("bench",): "users/dan",
    ("*",): "users/root",
}
GRANTS = CallRules(grants={name: frozenset(projects) for projects, name in PRINCIPALS.items()})
"""Who may call what, unless a test says otherwise."""


class Authority:
    """Signs access tokens as the auth service does."""

    def __init__(self, key_id: str = "k1") -> None:
        self.key_id = key_id
        self.key = jwk.OKPKey.generate_key("Ed25519", {"kid": key_id, "use": "sig", "alg": "EdDSA"})
        jwks = json.dumps({"keys": [self.key.as_dict(private=False)]})
        self.rules = TokenRules(issuer="lepton", audience="lepton", jwks=jwks, calls=GRANTS)

    def token(
        self,
        *projects: str,
        audience: str = "lepton",
        issuer: str = "lepton",
        lifetime_s: int = 300,
        subject: str = "",
        **claims: Any,
    ) -> str:
        """A token of somebody who has a role in these projects; `GRANTS` names them."""
        now = int(time.time())
        subject = subject or PRINCIPALS.get(projects, "users/nobody")
        claims = {"iss": issuer, "aud": audience, "sub": subject, "iat": now, "exp": now + lifetime_s, **claims}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joserfc prefers the newer name Ed25519, which Envoy does not know
            header = {"alg": "EdDSA", "kid": self.key_id}
            return jwt.encode(header, {**claims, "projects": list(projects)}, self.key, algorithms=["EdDSA"])

    def bearer(self, *projects: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token(*projects)}"}


def certificate(directory: Path, common_name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate and key, put in place by rename."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    files = (directory / "cert.pem", directory / "key.pem")
    for path, content in zip(files, (signed.public_bytes(serialization.Encoding.PEM), private), strict=True):
        temporary = path.with_suffix(".new")
        temporary.write_bytes(content)
        temporary.rename(path)
    return files


def identity_files(directory: Path, identity: Identity) -> tuple[Path, Path, Path]:
    """Certificate, key and roots, put in place by rename, as the inference service does."""
    held = identity.credentials
    files = directory / "cert.pem", directory / "key.pem", directory / "roots.pem"
    for path, pem in zip(files, (held.chain_pem, held.key_pem, held.bundle_pem), strict=True):
        temporary = path.with_suffix(".new")
        temporary.write_bytes(pem)
        temporary.rename(path)
    return files


@dataclass
class RunningGateway:
    """An Envoy that follows the files of its directory."""

    gateway: Gateway
    authority: Authority
    admin: EnvoyAdmin
    process: asyncio.subprocess.Process
    port: int

    async def route(self, routes: Routes, *, deadline_s: float = 30) -> None:
        """Writes the routes and waits until every replica gets calls."""
        write(self.gateway.directory, render(self.gateway, routes))
        expected = {route.cluster(target.revision): frozenset(target.endpoints) for route, target in routes.targets()}

        async def is_followed() -> bool:
            healthy = await self.admin.healthy()
            return all(healthy.get(model) == endpoints for model, endpoints in expected.items())

        await until(is_followed, deadline_s)

    def access_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.gateway.access_log.read_text().splitlines()]


@asynccontextmanager
async def gateway(
    directory: Path, *, concurrency: int = 1, identity: Identity | None = None, **settings: Any
) -> AsyncIterator[RunningGateway]:
    """An Envoy with an empty route table; with an identity of the mesh it calls replicas over mutual TLS."""
    directory.mkdir(parents=True)  # noqa: ASYNC240 (a test)
    authority = Authority()
    if identity is None:
        cert, key = certificate(directory)
    else:
        cert, key, settings["roots"] = identity_files(directory, identity)
    config = Gateway(directory=directory, tokens=authority.rules, certificate=cert, key=key, **settings)
    write(directory, render(config, Routes()))
    admin = EnvoyAdmin(directory)
    async with AsyncExitStack() as stack:
        output = stack.enter_context((directory / "envoy.log").open("wb"))
        process = await asyncio.create_subprocess_exec(
            *command(envoy_binary(), config, concurrency=concurrency), stdout=output, stderr=output
        )
        try:
            await until(admin.is_live, 15)
            port = (await admin.listening()).port
            yield RunningGateway(gateway=config, authority=authority, admin=admin, process=process, port=port)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
