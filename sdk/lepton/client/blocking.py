"""Client: AsyncClient for programs without an event loop; the same methods, which block, and ordinary iterators."""

from types import TracebackType
from typing import Any, Self

from lepton.client.access import Access
from lepton.client.api_keys import ApiKeys
from lepton.client.artifacts import Artifacts
from lepton.client.async_client import AsyncClient
from lepton.client.audit import Audit
from lepton.client.batch_predictions import BatchPredictions
from lepton.client.compliance import Compliance
from lepton.client.deployments import Deployments
from lepton.client.encryption import Encryption
from lepton.client.explain import Explain
from lepton.client.federation import Federation
from lepton.client.jobs import Jobs
from lepton.client.join_tokens import JoinTokens
from lepton.client.limits import Limits
from lepton.client.loop_thread import Facade, LoopThread, iterates, lists, waits
from lepton.client.models import Models
from lepton.client.nodes import Nodes
from lepton.client.optimizations import Optimizations
from lepton.client.planning import Planning
from lepton.client.pools import Pools
from lepton.client.projects import Projects
from lepton.client.queues import FloatingResources, Queues
from lepton.client.role_bindings import RoleBindings
from lepton.client.secrets import Secrets
from lepton.client.service_accounts import ServiceAccounts
from lepton.client.usage import Usage
from lepton.client.users import Users
from lepton.client.workloads import Workloads
from lepton.profile import Profile


class BlockingProjects(Facade[Projects]):
    """`client.projects` that blocks."""

    create = waits(Projects.create)
    get = waits(Projects.get)
    list = lists(Projects.list)
    delete = waits(Projects.delete)


class BlockingEncryption(Facade[Encryption]):
    """`client.encryption` that blocks."""

    get = waits(Encryption.get)
    rotate = waits(Encryption.rotate)
    shred = waits(Encryption.shred)


class BlockingUsers(Facade[Users]):
    """`client.users` that blocks."""

    create = waits(Users.create)
    get = waits(Users.get)
    list = lists(Users.list)
    set_password = waits(Users.set_password)
    set_disabled = waits(Users.set_disabled)


class BlockingServiceAccounts(Facade[ServiceAccounts]):
    """`client.service_accounts` that blocks."""

    create = waits(ServiceAccounts.create)
    get = waits(ServiceAccounts.get)
    list = lists(ServiceAccounts.list)


class BlockingApiKeys(Facade[ApiKeys]):
    """`client.api_keys` that blocks."""

    create = waits(ApiKeys.create)
    list = lists(ApiKeys.list)
    delete = waits(ApiKeys.delete)


class BlockingSecrets(Facade[Secrets]):
    """`client.secrets` that blocks."""

    create = waits(Secrets.create)
    add_version = waits(Secrets.add_version)
    get = waits(Secrets.get)
    list = lists(Secrets.list)
    check = waits(Secrets.check)
    set_enabled = waits(Secrets.set_enabled)
    destroy_version = waits(Secrets.destroy_version)
    delete = waits(Secrets.delete)


class BlockingAccess(Facade[Access]):
    """`client.access` that blocks."""

    can = waits(Access.can)
    explain = waits(Access.explain)
    permissions = waits(Access.permissions)
    roles = waits(Access.roles)
    role = waits(Access.role)
    create_role = waits(Access.create_role)
    update_role = waits(Access.update_role)
    preview_update_role = waits(Access.preview_update_role)
    delete_role = waits(Access.delete_role)
    revoke = waits(Access.revoke)
    signing_keys = waits(Access.signing_keys)
    rotate_signing_key = waits(Access.rotate_signing_key)
    authorities = waits(Access.authorities)
    rotate_authority = waits(Access.rotate_authority)


class BlockingRoleBindings(Facade[RoleBindings]):
    """`client.role_bindings` that blocks."""

    create = waits(RoleBindings.create)
    preview = waits(RoleBindings.preview)
    preview_delete = waits(RoleBindings.preview_delete)
    list = lists(RoleBindings.list)
    delete = waits(RoleBindings.delete)
    permissions = waits(RoleBindings.permissions)


class BlockingLimits(Facade[Limits]):
    """`client.limits` that blocks."""

    create = waits(Limits.create)
    get = waits(Limits.get)
    list = lists(Limits.list)
    update = waits(Limits.update)
    delete = waits(Limits.delete)


class BlockingJoinTokens(Facade[JoinTokens]):
    """`client.join_tokens` that blocks."""

    create = waits(JoinTokens.create)


class BlockingAudit(Facade[Audit]):
    """`client.audit` that blocks."""

    query = lists(Audit.query)
    tail = iterates(Audit.tail)
    verify = waits(Audit.verify)
    export = iterates(Audit.export)


class BlockingCompliance(Facade[Compliance]):
    """`client.compliance` that blocks."""

    create_policy = waits(Compliance.create_policy)
    policy = waits(Compliance.policy)
    policies = waits(Compliance.policies)
    update_policy = waits(Compliance.update_policy)
    delete_policy = waits(Compliance.delete_policy)
    exempt = waits(Compliance.exempt)
    exemptions = waits(Compliance.exemptions)
    end_exemption = waits(Compliance.end_exemption)
    label = waits(Compliance.label)
    labels = lists(Compliance.labels)
    findings = waits(Compliance.findings)
    report = waits(Compliance.report)


class BlockingQueues(Facade[Queues]):
    """`client.queues` that blocks."""

    create = waits(Queues.create)
    get = waits(Queues.get)
    list = lists(Queues.list)
    watch_all = iterates(Queues.watch_all)
    update = waits(Queues.update)
    delete = waits(Queues.delete)


class BlockingFloatingResources(Facade[FloatingResources]):
    """`client.floating_resources` that blocks."""

    create = waits(FloatingResources.create)
    get = waits(FloatingResources.get)
    list = lists(FloatingResources.list)
    watch_all = iterates(FloatingResources.watch_all)
    update = waits(FloatingResources.update)
    delete = waits(FloatingResources.delete)


class BlockingPools(Facade[Pools]):
    """`client.pools` that blocks."""

    create = waits(Pools.create)
    get = waits(Pools.get)
    list = lists(Pools.list)
    watch_all = iterates(Pools.watch_all)
    update = waits(Pools.update)
    delete = waits(Pools.delete)


class BlockingNodes(Facade[Nodes]):
    """`client.nodes` that blocks."""

    get = waits(Nodes.get)
    list = lists(Nodes.list)
    update = waits(Nodes.update)
    change = waits(Nodes.change)
    cordon = waits(Nodes.cordon)
    uncordon = waits(Nodes.uncordon)
    watch_all = iterates(Nodes.watch_all)
    wait = waits(Nodes.wait)


class BlockingUsage(Facade[Usage]):
    """`client.usage` that blocks."""

    get = waits(Usage.get)


class BlockingWorkloads(Facade[Workloads]):
    """`client.workloads` that blocks."""

    create = waits(Workloads.create)
    create_many = waits(Workloads.create_many)
    get = waits(Workloads.get)
    list = lists(Workloads.list)
    watch = iterates(Workloads.watch)
    watch_all = iterates(Workloads.watch_all)
    wait = waits(Workloads.wait)
    update = waits(Workloads.update)
    cancel = waits(Workloads.cancel)
    delete = waits(Workloads.delete)


class BlockingExplain(Facade[Explain]):
    """`client.explain` that blocks."""

    why = waits(Explain.why)
    what_if = waits(Explain.what_if)


class BlockingFederation(Facade[Federation]):
    """`client.federation` that blocks."""

    providers = waits(Federation.providers)
    link = waits(Federation.link)
    identities = lists(Federation.identities)
    unlink = waits(Federation.unlink)
    trust = waits(Federation.trust)
    trusts = lists(Federation.trusts)
    untrust = waits(Federation.untrust)


class BlockingPlanning(Facade[Planning]):
    """`client.planning` that blocks."""

    allocation = waits(Planning.allocation)
    scaling = waits(Planning.scaling)
    balancing = waits(Planning.balancing)


class BlockingJobs(Facade[Jobs]):
    """`client.jobs` that blocks."""

    create = waits(Jobs.create)
    submit_script = waits(Jobs.submit_script)
    get = waits(Jobs.get)
    list = lists(Jobs.list)
    watch = iterates(Jobs.watch)
    watch_all = iterates(Jobs.watch_all)
    wait = waits(Jobs.wait)
    cancel = waits(Jobs.cancel)
    delete = waits(Jobs.delete)
    checkpoints = lists(Jobs.checkpoints)
    logs = iterates(Jobs.logs)
    metrics = iterates(Jobs.metrics)
    curves = waits(Jobs.curves)


class BlockingArtifacts(Facade[Artifacts]):
    """`client.artifacts` that blocks."""

    upload = waits(Artifacts.upload)
    get = waits(Artifacts.get)
    download = waits(Artifacts.download)
    download_to = waits(Artifacts.download_to)


class BlockingModels(Facade[Models]):
    """`client.models` that blocks."""

    create = waits(Models.create)
    get = waits(Models.get)
    list = lists(Models.list)
    delete = waits(Models.delete)
    register = waits(Models.register)
    create_version = waits(Models.create_version)
    get_version = waits(Models.get_version)
    versions = lists(Models.versions)
    set_alias = waits(Models.set_alias)
    update = waits(Models.update)
    update_version = waits(Models.update_version)
    set_stage = waits(Models.set_stage)
    delete_version = waits(Models.delete_version)
    lineage = waits(Models.lineage)
    taint = waits(Models.taint)
    quarantine = waits(Models.quarantine)
    release = waits(Models.release)
    register_files = waits(Models.register_files)
    export = waits(Models.export)


class BlockingOptimizations(Facade[Optimizations]):
    """`client.optimizations` that blocks."""

    create = waits(Optimizations.create)
    get = waits(Optimizations.get)
    list = lists(Optimizations.list)
    watch = iterates(Optimizations.watch)
    watch_all = iterates(Optimizations.watch_all)
    wait = waits(Optimizations.wait)
    cancel = waits(Optimizations.cancel)
    delete = waits(Optimizations.delete)


class BlockingDeployments(Facade[Deployments]):
    """`client.deployments` that blocks."""

    create = waits(Deployments.create)
    get = waits(Deployments.get)
    list = lists(Deployments.list)
    watch = iterates(Deployments.watch)
    watch_all = iterates(Deployments.watch_all)
    wait = waits(Deployments.wait)
    wait_deleted = waits(Deployments.wait_deleted)
    scale = waits(Deployments.scale)
    autoscale = waits(Deployments.autoscale)
    update = waits(Deployments.update)
    roll_out = waits(Deployments.roll_out)
    wait_rollout = waits(Deployments.wait_rollout)
    pause = waits(Deployments.pause)
    resume = waits(Deployments.resume)
    promote = waits(Deployments.promote)
    abort = waits(Deployments.abort)
    undo = waits(Deployments.undo)
    revisions = lists(Deployments.revisions)
    revision = waits(Deployments.revision)
    delete = waits(Deployments.delete)


class BlockingBatchPredictions(Facade[BatchPredictions]):
    """`client.batch_predictions` that blocks."""

    create = waits(BatchPredictions.create)
    get = waits(BatchPredictions.get)
    list = lists(BatchPredictions.list)
    watch = iterates(BatchPredictions.watch)
    watch_all = iterates(BatchPredictions.watch_all)
    wait = waits(BatchPredictions.wait)
    wait_deleted = waits(BatchPredictions.wait_deleted)
    cancel = waits(BatchPredictions.cancel)
    delete = waits(BatchPredictions.delete)
    manifest = waits(BatchPredictions.manifest)
    download = waits(BatchPredictions.download)


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
