"""Runs the inference service: `python -m services.inference --config inference.toml`."""

import os
import socket

from chassis.app import App, run
from chassis.artifacts import ArtifactStore
from chassis.election import Election
from chassis.etcd import EtcdKV
from chassis.ledger import Ledger
from chassis.paging import Pager
from lepton.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from services.inference.config import InferenceConfig
from services.inference.deployments import Deployments
from services.inference.gateway import GatewayFiles
from services.inference.gateway_identity import gateway_value, keep_certified, token_rules
from services.inference.reconciler import Reconciler
from services.inference.registry import Registry
from services.inference.routing import GatewayRouting
from services.inference.servicer import InferenceServicer
from services.inference.store import LEADER, PAGE_KEY


async def build(config: InferenceConfig, app: App) -> None:
    """Puts the inference service together."""
    kv = await app.enter(EtcdKV(config.etcd_endpoints, tls=None, clock=app.clock))
    await app.join_mesh()
    artifacts = ArtifactStore(config.artifacts)
    registry = Registry(kv, artifacts)
    ledger = Ledger(app.peers.channel("scheduler"))
    gateway = gateway_value(config)
    await keep_certified(config, app, gateway)
    files = GatewayFiles(kv, ledger, gateway)
    app.access.on_change(lambda snapshot: files.use_tokens(token_rules(snapshot)))
    app.loop("write gateway files", files.run)
    election = Election(kv, LEADER, f"{socket.gethostname()}-{os.getpid()}", clock=app.clock)
    routing = GatewayRouting.of(gateway.directory, app.clock)
    reconciler = Reconciler(kv, election, ledger, registry, artifacts, routing, config.export_pools)
    app.loop("reconcile deployments", reconciler.run)
    served = Deployments(kv, registry, config.gateway.advertised or config.gateway.address)
    servicer = InferenceServicer(kv, registry, served, await Pager.open(kv, PAGE_KEY))
    app.serve((add_InferenceServiceServicer_to_server, servicer))


if __name__ == "__main__":
    run(InferenceConfig, build)
