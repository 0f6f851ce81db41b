"""Client: AsyncClient for programs without an event loop; the same methods, which block, and ordinary iterators."""

from types import TracebackType
from typing import Any, Self

from lepton.client.async_client import AsyncClient
from lepton.client.blocking.auth import (
    BlockingAccess,
    BlockingApiKeys,
    BlockingAudit,
    BlockingCompliance,
    BlockingEncryption,
    BlockingFederation,
    BlockingJoinTokens,
    BlockingLimits,
    BlockingProjects,
    BlockingRoleBindings,
    BlockingSecrets,
    BlockingServiceAccounts,
    BlockingUsers,
)
from lepton.client.blocking.inference import (
    BlockingBatchPredictions,
    BlockingDeployments,
    BlockingModels,
    BlockingOptimizations,
)
from lepton.client.blocking.scheduler import (
    BlockingExplain,
    BlockingFloatingResources,
    BlockingNodes,
    BlockingPlanning,
    BlockingPools,
    BlockingQueues,
    BlockingUsage,
    BlockingWorkloads,
)
from lepton.client.blocking.trainer import BlockingArtifacts, BlockingJobs
from lepton.client.loop_thread import Facade, LoopThread, waits
from lepton.profile import Profile


class Client(Facade[AsyncClient]):
    """A signed-in client; takes what AsyncClient takes. Use it as a context manager.

    with Client(user="alice", password=password, project="acme") as client:
        job = client.jobs.wait("digits", timeout_s=120)
    """

    def __init__(self, profile: Profile | None = None, *, project: str = "", **options: Any) -> None:
        loop = LoopThread()
        try:
            super().__init__(loop, loop.run(_made(profile, project, options)))
        except BaseException:
            loop.close()
            raise
        self.projects = BlockingProjects(loop, self._group.projects)
        self.encryption = BlockingEncryption(loop, self._group.encryption)
        self.users = BlockingUsers(loop, self._group.users)
        self.service_accounts = BlockingServiceAccounts(loop, self._group.service_accounts)
        self.api_keys = BlockingApiKeys(loop, self._group.api_keys)
        self.secrets = BlockingSecrets(loop, self._group.secrets)
        self.federation = BlockingFederation(loop, self._group.federation)
        self.role_bindings = BlockingRoleBindings(loop, self._group.role_bindings)
        self.access = BlockingAccess(loop, self._group.access)
        self.limits = BlockingLimits(loop, self._group.limits)
        self.join_tokens = BlockingJoinTokens(loop, self._group.join_tokens)
        self.audit = BlockingAudit(loop, self._group.audit)
        self.compliance = BlockingCompliance(loop, self._group.compliance)
        self.pools = BlockingPools(loop, self._group.pools)
        self.queues = BlockingQueues(loop, self._group.queues)
        self.floating_resources = BlockingFloatingResources(loop, self._group.floating_resources)
        self.nodes = BlockingNodes(loop, self._group.nodes)
        self.usage = BlockingUsage(loop, self._group.usage)
        self.workloads = BlockingWorkloads(loop, self._group.workloads)
        self.explain = BlockingExplain(loop, self._group.explain)
        self.planning = BlockingPlanning(loop, self._group.planning)
        self.jobs = BlockingJobs(loop, self._group.jobs)
        self.artifacts = BlockingArtifacts(loop, self._group.artifacts)
        self.models = BlockingModels(loop, self._group.models)
        self.optimizations = BlockingOptimizations(loop, self._group.optimizations)
        self.deployments = BlockingDeployments(loop, self._group.deployments)
        self.batch_predictions = BlockingBatchPredictions(loop, self._group.batch_predictions)

    sign_in = waits(AsyncClient.sign_in)
    sign_in_with_id_token = waits(AsyncClient.sign_in_with_id_token)
    sign_in_as_workload = waits(AsyncClient.sign_in_as_workload)
    sign_out = waits(AsyncClient.sign_out)
    caller = waits(AsyncClient.caller)
    fresh_access_token = waits(AsyncClient.fresh_access_token)
    predict = waits(AsyncClient.predict)
    trace = waits(AsyncClient.trace)

    @property
    def profile(self) -> Profile:
        """How the services are reached."""
        return self._group.profile

    @property
    def access_token(self) -> str:
        """The present access token."""
        return self._group.access_token

    @property
    def project(self) -> str:
        """The id of the project in which ids and lists are meant; may be set."""
        return self._group.project

    @project.setter
    def project(self, project: str) -> None:
        self._group.project = project

    def close(self) -> None:
        """Close every connection."""
        self._loop.run(self._group.aclose())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


async def _made(profile: Profile | None, project: str, options: dict[str, Any]) -> AsyncClient:
    return AsyncClient(profile, project=project, **options)  # in the loop that it will live in
