"""Runs the trainer: `python -m services.trainer --config trainer.toml`."""

import os
import socket

from chassis.app import App, run
from chassis.artifact_keys import ArtifactKeys, ask_auth
from chassis.artifacts import ArtifactStore
from chassis.compliance_watch import govern
from chassis.election import Election
from chassis.etcd import TLS, EtcdKV
from chassis.ledger import Ledger
from chassis.paging import Pager
from chassis.secret_mounts import Gate
from lepton.internal.v1.run_report_pb2_grpc import add_RunReportServiceServicer_to_server
from lepton.trainer.v1.artifact_service_pb2_grpc import add_ArtifactServiceServicer_to_server
from lepton.trainer.v1.trainer_service_pb2_grpc import add_TrainerServiceServicer_to_server
from services.trainer import transfer_limits
from services.trainer.artifact_servicer import ArtifactServicer
from services.trainer.collector import Collector
from services.trainer.compliance import JobInspector
from services.trainer.config import TrainerConfig
from services.trainer.counting import counted_jobs
from services.trainer.journal import Journals, Limits
from services.trainer.reconciler import Reconciler
from services.trainer.reports import RunReportServicer
from services.trainer.rewrapper import Rewrapper
from services.trainer.runs import Runs
from services.trainer.servicer import TrainerServicer
from services.trainer.store import LEADER, PAGE_KEY, JobStore
from services.trainer.transfer_limits import TransferLimits
from services.trainer.uploads import Uploads


async def build(config: TrainerConfig, app: App) -> None:
    """Puts the trainer together."""
    tls = TLS.of_files(config.etcd_ca, config.etcd_cert, config.etcd_key)
    kv = await app.enter(EtcdKV(config.etcd_endpoints, tls=tls, clock=app.clock))
    await app.join_mesh()
    keys = ArtifactKeys(ask_auth(app.peers.channel("auth")), app.clock)
    artifacts = ArtifactStore(config.artifacts, keys)
    journals = Journals(config.journals, Limits.of(config.largest_journal_bytes))
    jobs = JobStore(kv)
    election = Election(kv, LEADER, f"{socket.gethostname()}-{os.getpid()}", clock=app.clock)
    reconciler = Reconciler(kv, election, Ledger(app.peers.channel("scheduler")), app.clock)
    app.loop("reconcile jobs", reconciler.run)
    collector = Collector(kv, artifacts, app.clock, every_s=config.collect_every_s, grace_s=config.collect_after_s)
    app.loop("collect checkpoints", collector.run)
    if artifacts.has_project_keys:
        auth = app.peers.channel("auth")
        rewrapper = Rewrapper(artifacts, keys, auth, app.clock, every_s=config.rewrap_every_s)
        app.loop("seal by the newest keys", rewrapper.run)
    limits = transfer_limits.Limits(
        largest_bytes=config.largest_artifact_bytes,
        project_bytes=config.most_project_artifact_bytes,
        transfers=config.most_transfers,
    )
    moved = ArtifactServicer(artifacts, Uploads(kv, artifacts, app.clock), TransferLimits(artifacts, app.clock, limits))
    counted = counted_jobs(kv, app.access, app.clock)
    app.loop("count jobs", counted.run)
    pager = await Pager.open(kv, PAGE_KEY)
    gate = Gate(app.access, app.peers.channel("auth"))
    compliance = govern(app, JobInspector(kv, artifacts), every_s=config.compliance_every_s)
    servicer = TrainerServicer(kv, artifacts, journals, pager, gate, counted, compliance)
    app.serve(
        (add_TrainerServiceServicer_to_server, servicer),
        (add_ArtifactServiceServicer_to_server, moved),
        (add_RunReportServiceServicer_to_server, RunReportServicer(jobs, Runs(jobs, artifacts), journals)),
    )


if __name__ == "__main__":
    run(TrainerConfig, build)
