"""The state of all services, and the faults that are planned for them."""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from lepton.auth.v1 import session_service_pb2
from lepton.auth.v1.principal_pb2 import ApiKey, ServiceAccount, User
from lepton.auth.v1.project_pb2 import Project
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.errors import LeptonError, PermissionDenied, Unauthenticated
from lepton.inference.v1.deployment_pb2 import Deployment
from lepton.inference.v1.model_pb2 import Model, ModelVersion
from lepton.scheduler.v1 import planning_service_pb2
from lepton.scheduler.v1.node_pb2 import Node
from lepton.scheduler.v1.pool_pb2 import Pool
from lepton.scheduler.v1.queue_pb2 import FloatingResource, Queue
from lepton.scheduler.v1.workload_pb2 import Workload
from lepton.trainer.v1 import trainer_service_pb2
from lepton.trainer.v1.checkpoint_pb2 import Checkpoint
from lepton.trainer.v1.job_pb2 import Job
from tests.harness.small_lepton.tables import Log, Table

PASSWORD = "correct horse battery"


class World:
    """The state of all services, and the means to disturb what they answer."""

    def __init__(self) -> None:
        self.log = Log()
        self.tables = {
            kind.__name__: Table(self.log, kind)
            for kind in (
                Project, User, ServiceAccount, ApiKey, RoleBinding, Pool, Node, Workload, Job, Checkpoint,
                Model, ModelVersion, Deployment, Queue, FloatingResource,
            )
        }  # fmt: skip
        self.explanations: dict[str, planning_service_pb2.ExplainWorkloadResponse] = {}
        self.what_if = planning_service_pb2.WhatIfResponse()
        self.utilization: dict[str, planning_service_pb2.GetUtilizationResponse] = {}
        self.artifacts: dict[str, bytes] = {}
        self.lines: dict[str, list[trainer_service_pb2.LogLine]] = defaultdict(list)
        self.points: dict[str, list[trainer_service_pb2.MetricPoint]] = defaultdict(list)
        self.passwords = {"users/admin": PASSWORD, "users/alice": PASSWORD}
        self.token_lives_s = 300.0
        self.tokens: dict[str, tuple[str, float]] = {}
        self.refresh_tokens: dict[str, str] = {}
        self.used_refresh_tokens: set[str] = set()
        self.answers_by_request_id: dict[str, Any] = {}
        self.calls: list[tuple[str, Any]] = []
        self.sent: dict[str, int] = defaultdict(int)  # messages of streams
        self.headers: list[tuple[str, dict[str, Any]]] = []
        self._faults: dict[str, list[tuple[LeptonError | None, LeptonError | None]]] = defaultdict(list)
        self._numbers = itertools.count(1)

    def table(self, kind: Any) -> Table:
        return self.tables[kind.__name__]

    def count(self, method: str) -> int:
        return sum(1 for each, _ in self.calls if each == method)

    def requests(self, method: str) -> list[Any]:
        return [request for each, request in self.calls if each == method]

    def fail(self, method: str, error: LeptonError, *, after: bool = False, times: int = 1) -> None:
        """Answer the next calls of a method with this error; `after` it was carried out (for a stream: one message)."""
        self._faults[method] += [(None, error) if after else (error, None)] * times

    def planned(self, method: str) -> tuple[LeptonError | None, LeptonError | None]:
        return self._faults[method].pop(0) if self._faults[method] else (None, None)

    def sign_in(self, principal: str, *, refreshable: bool) -> session_service_pb2.Session:
        access, expires = f"access-{next(self._numbers)}", time.time() + self.token_lives_s
        self.tokens[access] = (principal, expires)
        session = session_service_pb2.Session(principal=principal, access_token=access)
        session.access_expire_time.FromNanoseconds(int(expires * 1e9))
        if refreshable:
            session.refresh_token = f"refresh-{next(self._numbers)}"
            session.refresh_expire_time.FromNanoseconds(int((time.time() + 3600) * 1e9))
            self.refresh_tokens[session.refresh_token] = principal
        return session

    def check(self, authorization: str, service: str) -> str:
        principal, expires = self.tokens.get(authorization.removeprefix("Bearer "), ("", 0.0))
        if not principal:
            raise Unauthenticated("TOKEN_MISSING" if authorization in ("", "Bearer ") else "TOKEN_REVOKED")
        if expires < time.time():
            raise Unauthenticated("TOKEN_EXPIRED")
        if principal == "users/alice" and self._is_forbidden(service):
            raise PermissionDenied("PERMISSION_DENIED", permission="users.create", resource="*")
        return principal

    def _is_forbidden(self, service: str) -> bool:
        return service == "auth" and bool(self.calls) and self.calls[-1][0] == "CreateUser"

    def once(self, request: Any, make: Callable[[], Any]) -> Any:
        if request.request_id and request.request_id in self.answers_by_request_id:
            return self.answers_by_request_id[request.request_id]
        answer = make()
        if request.request_id:
            self.answers_by_request_id[request.request_id] = answer
        return answer
