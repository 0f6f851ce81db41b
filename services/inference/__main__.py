"""Runs the inference service: `python -m services.inference --config inference.toml`."""

import os
import socket
from random import Random

from chassis.app import App, run
from chassis.artifact_keys import ArtifactKeys, ask_auth
from chassis.artifacts import ArtifactStore
from chassis.compliance_watch import govern
from chassis.election import Election
from chassis.etcd import TLS, EtcdKV
from chassis.ledger import Ledger
from chassis.paging import Pager
from lepton.inference.v1.batch_prediction_service_pb2_grpc import add_BatchPredictionServiceServicer_to_server
from lepton.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from lepton.inference.v1.optimization_service_pb2_grpc import add_OptimizationServiceServicer_to_server
from lepton.internal.v1.model_server_pb2_grpc import add_ModelServerServiceServicer_to_server
from services.inference.autoscaling.autoscaler import Autoscaler
from services.inference.autoscaling.keys import LEADER as AUTOSCALER
from services.inference.autoscaling.publisher import LoadPublisher
from services.inference.autoscaling.waker import DurableWaker
from services.inference.batch.predictions import BatchPredictions
from services.inference.batch.reconciler import BatchReconciler
from services.inference.batch.servicer import BatchPredictionServicer
from services.inference.batch.store import LEADER as BATCHES
from services.inference.call_hours import CallHours
from services.inference.comparing import Comparer
from services.inference.compliance import ModelInspector
from services.inference.config import InferenceConfig
from services.inference.conversions import Conversions
from services.inference.counting import BATCH_PREDICTIONS, DEPLOYMENTS, OPTIMIZATIONS, counted_by_kind
from services.inference.deployments import Deployments
from services.inference.envoy import EnvoyAdmin
from services.inference.envoy.log_rotation import LogRotation
from services.inference.envoy.rejections import Rejections
from services.inference.gateway import GatewayFiles
from services.inference.gateway_identity import gateway_value, keep_certified, token_rules
from services.inference.holder import Holder
from services.inference.open_streams import OpenStreams
from services.inference.optimizations.keys import LEADER as OPTIMIZER
from services.inference.optimizations.reconciler import OptimizationReconciler
from services.inference.optimizations.searches import Searches
from services.inference.optimizations.servicer import OptimizationServicer
from services.inference.reconciler import Reconciler
from services.inference.recorder import Recorder
from services.inference.registry import Registry
from services.inference.routing import GatewayRouting
from services.inference.servicer import InferenceServicer
from services.inference.shared.board import SharedBoard
from services.inference.shared.ledger import SharedLedger
from services.inference.shared.placer import SharedPlacer
from services.inference.shared.registry import LEADER as SHARED_LEADER
from services.inference.shared.sessions import ModelServers
from services.inference.store import LEADER, PAGE_KEY
from services.inference.watching import RolloutWatch


async def build(config: InferenceConfig, app: App) -> None:
    """Puts the inference service together."""
    tls = TLS.of_files(config.etcd_ca, config.etcd_cert, config.etcd_key)
    kv = await app.enter(EtcdKV(config.etcd_endpoints, tls=tls, clock=app.clock))
    await app.join_mesh()
    artifacts = ArtifactStore(config.artifacts, ArtifactKeys(ask_auth(app.peers.channel("auth")), app.clock))
    registry = Registry(kv, artifacts)
    inspector = ModelInspector(kv, registry, config.export_pools)
    registry.compliance = govern(app, inspector, every_s=config.compliance_every_s)
    scheduler = Ledger(app.peers.channel("scheduler"))
    ledger = SharedLedger(scheduler, kv)
    board = SharedBoard(kv, scheduler)
    app.loop("follow shared models", board.run)
    gateway = gateway_value(config)
    await keep_certified(config, app, gateway)
    recorder = await app.enter(Recorder(app.clock, Random(), identity=app.identity))  # noqa: S311 (a sample, no secret)
    scaling = config.autoscaling
    waker = DurableWaker(kv)
    streams = OpenStreams()
    hours = CallHours(app.clock)
    hours.on_change(lambda _, calls: streams.use(calls))
    holder = await app.enter(
        Holder(
            waker,
            app.clock,
            address=scaling.holder,
            key=gateway.holder_key,
            held_bytes=scaling.held_bytes,
            identity=app.identity,
            streams=streams,
        )
    )
    envoy = EnvoyAdmin(gateway.directory)
    rotation = LogRotation(
        path=gateway.access_log,
        admin=envoy,
        clock=app.clock,
        file_bytes=config.gateway.access_log_bytes,
        files=config.gateway.access_log_files,
    )
    app.loop("bound the access log", rotation.run)
    rejections = Rejections(envoy, app.clock)
    app.loop("look what Envoy refuses", rejections.run)
    files = GatewayFiles(kv, ledger, gateway, recorder=recorder.endpoint, holder=holder, rejections=rejections)
    hours.on_change(lambda snapshot, calls: files.use_tokens(token_rules(snapshot, calls)))
    app.access.on_change(hours.use)
    app.loop("follow hours of grants", hours.run)
    app.loop("write gateway files", files.run)
    candidate = f"{socket.gethostname()}-{os.getpid()}"
    election = Election(kv, LEADER, candidate, clock=app.clock)
    routing = GatewayRouting(envoy, app.clock, rejections)
    watch = RolloutWatch(Comparer(artifacts, recorder, app.identity), EnvoyAdmin(gateway.directory), app.clock)
    conversions = Conversions(registry, config.export_pools)
    reconciler = Reconciler(kv, election, ledger, registry, artifacts, routing, watch, conversions)
    app.loop("reconcile deployments", reconciler.run)
    here = f"{socket.gethostname()}:{gateway.port}"
    publisher = LoadPublisher(kv, envoy, holder.held, gateway_id=here, clock=app.clock, every_s=scaling.publish_s)
    app.loop("publish the gateway's load", publisher.run)
    autoscaler = Autoscaler(kv, Election(kv, AUTOSCALER, candidate, clock=app.clock), ledger, app.clock, scaling)
    app.loop("scale deployments", autoscaler.run)
    sharing = Election(kv, SHARED_LEADER, candidate, clock=app.clock)
    placer = SharedPlacer(kv, sharing, scheduler, board, app.clock, config.shared)
    app.loop("place shared models", placer.run)
    counted = counted_by_kind(kv, app.access, app.clock)
    for kind, holdings in counted.items():
        app.loop(f"count {kind}", holdings.run)
    address = config.gateway.advertised or config.gateway.address
    served = Deployments(kv, registry, address, counted[DEPLOYMENTS], app.access)
    pager = await Pager.open(kv, PAGE_KEY)
    servicer = InferenceServicer(kv, registry, served, pager)
    elected = Election(kv, BATCHES, candidate, clock=app.clock)
    batches = BatchReconciler(kv, elected, ledger, registry, artifacts, conversions)
    app.loop("reconcile batch predictions", batches.run)
    batch_servicer = BatchPredictionServicer(
        kv, BatchPredictions(kv, registry, artifacts, counted[BATCH_PREDICTIONS]), pager
    )
    optimizer = Election(kv, OPTIMIZER, candidate, clock=app.clock)
    optimizing = OptimizationReconciler(kv, optimizer, ledger, artifacts, conversions)
    app.loop("reconcile optimizations", optimizing.run)
    searches = Searches(kv, registry, artifacts, counted[OPTIMIZATIONS], conversions)
    optimization_servicer = OptimizationServicer(kv, searches, pager)
    app.serve(
        (add_InferenceServiceServicer_to_server, servicer),
        (add_OptimizationServiceServicer_to_server, optimization_servicer),
        (add_BatchPredictionServiceServicer_to_server, batch_servicer),
        (add_ModelServerServiceServicer_to_server, ModelServers(kv, board, app.clock)),
    )


if __name__ == "__main__":
    run(InferenceConfig, build)
