"""One scheduler replica: its parts, wired."""

import os
import socket
from collections.abc import Callable
from typing import Any

from chassis.access import PolicyReplica
from chassis.call import Call
from chassis.clock import Clock
from chassis.compliance import Compliance
from chassis.compliance_watch import ComplianceWatch, Reporter
from chassis.election import Election
from chassis.kv import KV
from chassis.paging import Pager
from chassis.requests import Requests
from chassis.secret_mounts import SecretGate
from chassis.server import Registration
from lepton.internal.v1 import node_session_pb2_grpc, project_keys_pb2_grpc, secrets_pb2_grpc
from lepton.names import NodeName
from lepton.scheduler.v1 import planning_service_pb2_grpc, queue_service_pb2_grpc, scheduler_service_pb2_grpc
from services.scheduler import keys
from services.scheduler.commit import Committer
from services.scheduler.compliance import PoolLabels, WorkloadInspector
from services.scheduler.config import SchedulerConfig
from services.scheduler.counting import counted_workloads
from services.scheduler.explain import Explain
from services.scheduler.floating import FloatingResources
from services.scheduler.leader import Leader
from services.scheduler.ledger import Ledger
from services.scheduler.node_projects import NodeProjectServicer
from services.scheduler.nodes import Nodes
from services.scheduler.planning_servicer import PlanningServicer
from services.scheduler.pools import Pools
from services.scheduler.queue_servicer import QueueServicer
from services.scheduler.queues import Queues
from services.scheduler.servicer import SchedulerServicer
from services.scheduler.sessions.conversation import Conversations, peer_is_node
from services.scheduler.sessions.delivery import Delivery
from services.scheduler.sessions.leases import Leases
from services.scheduler.sessions.registry import Sessions
from services.scheduler.sessions.reports import Reports
from services.scheduler.sessions.servicer import NodeSessionServicer
from services.scheduler.sessions.task_reports import TaskReports
from services.scheduler.slice_secrets import SliceSecrets, SliceSecretsServicer
from services.scheduler.utilization import Utilization
from services.scheduler.utilization.measured import Measured
from services.scheduler.workloads import Workloads


class Scheduler:
    """The parts of a replica: `loops` run in the background, `registrations` are served."""

    def __init__(
        self,
        kv: KV,
        pager: Pager,
        clock: Clock,
        config: SchedulerConfig,
        identify: Callable[[Call | None], Callable[[NodeName], None]] = peer_is_node,
        access: PolicyReplica | None = None,
        gate: SecretGate | None = None,
    ) -> None:
        nodes, lead = config.nodes, config.leader
        replica_id = config.replica_id or f"{socket.gethostname()}:{os.getpid()}"
        self.ledger = Ledger(kv, clock, settled_s=config.elastic.settled_s, cooled_s=config.elastic.cooled_s)
        requests = Requests(kv, keys.REQUESTS, clock=clock)
        leases = Leases(kv, clock, count=nodes.leases, ttl_s=nodes.lease_ttl_s)
        self.sessions = Sessions(kv, self.ledger, leases, clock, ttl_s=nodes.ttl_s)
        delivery = Delivery(self.ledger, self.sessions)
        self.ledger.listen(self.sessions)
        self.ledger.listen(delivery)
        reports, task_reports = Reports(kv, self.ledger, clock), TaskReports(kv, self.ledger, clock)
        conversations = Conversations(self.sessions, delivery, reports, task_reports, clock)
        election = Election(
            kv,
            keys.LEADER,
            replica_id,
            ttl_s=lead.ttl_s,
            renew_deadline_s=lead.renew_deadline_s,
            retry_s=lead.retry_s,
            clock=clock,
        )
        committer = Committer(kv, self.ledger, clock)
        self.leader = Leader(election, self.ledger, committer, clock, fence_s=nodes.ttl_s, debounce_s=lead.debounce_s)
        fleet = Nodes(kv, self.ledger, pager)
        pools = Pools(kv, self.ledger, fleet, requests, pager, clock)
        counted = counted_workloads(kv, access, clock) if access is not None else None
        pool_labels = PoolLabels(self.ledger)
        self.compliance = Compliance(access, pool_labels, clock)
        workloads = Workloads(kv, requests, pager, clock, counted, access, self.compliance)
        self._inspector = WorkloadInspector(self.ledger, workloads, self.compliance)
        self._clock, self._config, self._pool_labels = clock, config, pool_labels
        self.measured = Measured(kv, self.sessions, replica_id, clock)
        explain = Explain(self.ledger, clock, nodes.ttl_s)
        self.utilization = Utilization(self.ledger, self.measured, access, clock)
        queues = Queues(kv, self.ledger, requests, pager, clock, access)
        floating = FloatingResources(kv, self.ledger, requests, pager)
        self.registrations: tuple[Registration, ...] = (
            (
                scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server,
                SchedulerServicer(pools, fleet, workloads, gate),
            ),
            (
                planning_service_pb2_grpc.add_PlanningServiceServicer_to_server,
                PlanningServicer(self.ledger, explain, self.utilization, fence_s=nodes.ttl_s),
            ),
            (queue_service_pb2_grpc.add_QueueServiceServicer_to_server, QueueServicer(queues, floating)),
            (
                node_session_pb2_grpc.add_NodeSessionServiceServicer_to_server,
                NodeSessionServicer(conversations, identify),
            ),
            (
                project_keys_pb2_grpc.add_NodeProjectServiceServicer_to_server,
                NodeProjectServicer(self.ledger),
            ),
            (
                secrets_pb2_grpc.add_SliceSecretsServiceServicer_to_server,
                SliceSecretsServicer(SliceSecrets(kv)),
            ),
        )
        self.loops: dict[str, Callable[[], Any]] = {
            "ledger": self.ledger.run,
            "sessions": conversations.run,
            "leader": self.leader.run,
            "utilization": self.utilization.run,
        }
        if counted is not None:
            self.loops["count workloads"] = counted.run

    def compliance_watch(self, reporter: Reporter) -> ComplianceWatch:
        """What looks at the workloads that exist by the compliance policies, and tells what it finds."""
        every_s = self._config.compliance_every_s
        watch = ComplianceWatch(self.compliance, self._inspector, reporter, self._clock, every_s=every_s)
        self._pool_labels.on_change(watch.look_again)
        return watch
