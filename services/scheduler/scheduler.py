"""One scheduler replica: its parts, wired."""

import os
import socket
from collections.abc import Callable
from typing import Any

from chassis.call import Call
from chassis.clock import Clock
from chassis.election import Election
from chassis.kv import KV
from chassis.paging import Pager
from chassis.requests import Requests
from chassis.server import Registration
from lepton.internal.v1 import node_session_pb2_grpc
from lepton.names import NodeName
from lepton.scheduler.v1 import scheduler_service_pb2_grpc
from services.scheduler import keys
from services.scheduler.commit import Committer
from services.scheduler.config import SchedulerConfig
from services.scheduler.leader import Leader
from services.scheduler.ledger import Ledger
from services.scheduler.pools import Pools
from services.scheduler.servicer import SchedulerServicer
from services.scheduler.sessions.conversation import Conversations, peer_is_node
from services.scheduler.sessions.delivery import Delivery
from services.scheduler.sessions.leases import Leases
from services.scheduler.sessions.registry import Sessions
from services.scheduler.sessions.reports import Reports
from services.scheduler.sessions.servicer import NodeSessionServicer
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
    ) -> None:
        nodes, lead = config.nodes, config.leader
        self.ledger = Ledger(kv, clock)
        requests = Requests(kv, keys.REQUESTS, clock=clock)
        leases = Leases(kv, clock, count=nodes.leases, ttl_s=nodes.lease_ttl_s)
        self.sessions = Sessions(kv, self.ledger, leases, clock, ttl_s=nodes.ttl_s)
        delivery = Delivery(self.ledger, self.sessions)
        self.ledger.listen(self.sessions)
        self.ledger.listen(delivery)
        conversations = Conversations(self.sessions, delivery, Reports(kv, self.ledger, clock))
        election = Election(
            kv,
            keys.LEADER,
            config.replica_id or f"{socket.gethostname()}:{os.getpid()}",
            ttl_s=lead.ttl_s,
            renew_deadline_s=lead.renew_deadline_s,
            retry_s=lead.retry_s,
            clock=clock,
        )
        committer = Committer(kv, self.ledger, clock)
        self.leader = Leader(election, self.ledger, committer, clock, fence_s=nodes.ttl_s, debounce_s=lead.debounce_s)
        pools = Pools(kv, self.ledger, requests, pager, clock)
        workloads = Workloads(kv, requests, pager, clock)
        self.registrations: tuple[Registration, ...] = (
            (scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server, SchedulerServicer(pools, workloads)),
            (
                node_session_pb2_grpc.add_NodeSessionServiceServicer_to_server,
                NodeSessionServicer(conversations, identify),
            ),
        )
        self.loops: dict[str, Callable[[], Any]] = {
            "ledger": self.ledger.run,
            "sessions": conversations.run,
            "leader": self.leader.run,
        }
