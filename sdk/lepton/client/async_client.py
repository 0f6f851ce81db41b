"""AsyncClient: everything that a caller can do with a Lepton, for programs that run an event loop."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from lepton.auth.v1 import session_service_pb2 as session_pb
from lepton.auth.v1.session_service_pb2_grpc import SessionServiceStub
from lepton.client.access import Access
from lepton.client.api_keys import ApiKeys
from lepton.client.artifacts import Artifacts
from lepton.client.audit import Audit
from lepton.client.batch_predictions import BatchPredictions
from lepton.client.calls import Calls, OnWarning
from lepton.client.compliance import Compliance
from lepton.client.credentials import Credentials, CredentialStore, FileCredentials, MemoryCredentials
from lepton.client.deployments import Deployments
from lepton.client.encryption import Encryption
from lepton.client.explain import Explain
from lepton.client.federation import Federation
from lepton.client.jobs import Jobs
from lepton.client.join_tokens import JoinTokens
from lepton.client.limits import Limits
from lepton.client.models import Models
from lepton.client.nodes import Nodes
from lepton.client.optimizations import Optimizations
from lepton.client.patience import OnRetry
from lepton.client.planning import Planning
from lepton.client.pools import Pools
from lepton.client.projects import Projects
from lepton.client.queues import FloatingResources, Queues
from lepton.client.role_bindings import RoleBindings
from lepton.client.scope import Scope
from lepton.client.secrets import Secrets
from lepton.client.service_accounts import ServiceAccounts
from lepton.client.traces import read_trace
from lepton.client.usage import Usage
from lepton.client.users import Users
from lepton.client.workloads import Workloads
from lepton.errors import FailedPrecondition, Unauthenticated
from lepton.names import DeploymentName, ServiceAccountName
from lepton.profile import Profile

if TYPE_CHECKING:
    from lepton.client.predict import Predictor
    from lepton.golden import Array

PATIENCE_S: Final = 60.0


class AsyncClient:
    """A signed-in client. Use it as a context manager; it belongs to the event loop that it was made in.

        async with AsyncClient(user="alice", password=password, project="acme") as client:
            job = await client.jobs.create("digits", Job(...))
            job = await client.jobs.wait(job.name, timeout_s=120)

    Credentials come from `credentials`; given an API key, a user and a password, or a service account and a file with
    an ID token that it trusts, they are kept in memory only; given nothing they are those of `lepton login`. Calls go
    on for `patience_s` while a service is away.
    """

    def __init__(
        self,
        profile: Profile | None = None,
        *,
        project: str = "",
        user: str = "",
        password: str = "",
        api_key: str = "",
        service_account: str = "",
        id_token_file: str = "",
        credentials: CredentialStore | None = None,
        patience_s: float = PATIENCE_S,
        on_retry: OnRetry | None = None,
        on_warning: OnWarning | None = None,
    ) -> None:
        self.profile = profile or Profile.load()
        store = credentials or self._default_store(user or id_token_file, api_key)
        self._calls = Calls(self.profile, store, patience_s=patience_s, on_retry=on_retry, on_warning=on_warning)
        self._scope = Scope(project or self.profile.project)
        if user:
            self._calls.signed_in.will_use_password(user, password)
        if id_token_file and not (user or api_key):
            self._calls.signed_in.will_use_workload(service_account, id_token_file)
        self._sessions = SessionServiceStub(self._calls.channel("auth"))
        self._predictor: Predictor | None = None
        self.projects = Projects(self._calls, self._scope)
        self.encryption = Encryption(self._calls, self._scope)
        self.users = Users(self._calls, self._scope)
        self.service_accounts = ServiceAccounts(self._calls, self._scope)
        self.api_keys = ApiKeys(self._calls, self._scope)
        self.federation = Federation(self._calls, self._scope)
        self.secrets = Secrets(self._calls, self._scope)
        self.role_bindings = RoleBindings(self._calls, self._scope)
        self.access = Access(self._calls, self._scope)
        self.limits = Limits(self._calls, self._scope)
        self.join_tokens = JoinTokens(self._calls, self._scope)
        self.audit = Audit(self._calls, self._scope)
        self.compliance = Compliance(self._calls, self._scope)
        self.pools = Pools(self._calls, self._scope)
        self.nodes = Nodes(self._calls, self._scope)
        self.queues = Queues(self._calls, self._scope)
        self.floating_resources = FloatingResources(self._calls, self._scope)
        self.usage = Usage(self._calls, self._scope)
        self.workloads = Workloads(self._calls, self._scope)
        self.explain = Explain(self._calls, self._scope)
        self.planning = Planning(self._calls, self._scope)
        self.jobs = Jobs(self._calls, self._scope)
        self.artifacts = Artifacts(self._calls, self._scope)
        self.models = Models(self._calls, self._scope)
        self.optimizations = Optimizations(self._calls, self._scope)
        self.deployments = Deployments(self._calls, self._scope)
        self.batch_predictions = BatchPredictions(self._calls, self._scope, self.artifacts)

    @classmethod
    def open(cls, profile: Profile | None = None, *, project: str = "", **options: Any) -> Self:
        """A client: `async with AsyncClient.open(...) as client`."""
        return cls(profile, project=project, **options)

    @property
    def project(self) -> str:
        """The id of the project in which ids and lists are meant; may be set."""
        return self._scope.project

    @project.setter
    def project(self, project: str) -> None:
        self._scope.project = project.removeprefix("projects/")

    async def sign_in(self, *, user: str = "", password: str = "", api_key: str = "") -> Credentials:
        """Sign in with a password or an API key, and keep what comes of it."""
        signed_in = self._calls.signed_in
        if api_key:
            await self._calls.public(lambda: signed_in.with_api_key(api_key))
        else:
            await self._calls.public(lambda: signed_in.with_password(user, password))
        return signed_in.credentials

    async def sign_in_with_id_token(self, id_token: str, *, nonce: str = "") -> Credentials:
        """Sign in as the person whom an OpenID provider names; each ID token is good for one sign-in."""
        signed_in = self._calls.signed_in
        await self._calls.public(lambda: signed_in.with_id_token(id_token, nonce))
        return signed_in.credentials

    async def sign_in_as_workload(self, service_account: str, id_token_file: str) -> Credentials:
        """Sign in as a service account that trusts the ID token in a file; the file is read again at each renewal."""
        signed_in, account = self._calls.signed_in, self._scope.name(ServiceAccountName, service_account)
        await self._calls.public(lambda: signed_in.with_workload(account, id_token_file))
        return signed_in.credentials

    async def sign_out(self) -> None:
        """End the session at the server, and keep no credentials any more."""
        try:
            await self._calls.unary(self._sessions.SignOut, session_pb.SignOutRequest())
        except Unauthenticated:
            pass  # it has ended already
        finally:
            self._calls.signed_in.forget()

    async def caller(self) -> session_pb.Caller:
        """Who is signed in, with which roles where."""
        return await self._calls.unary(self._sessions.GetCaller, session_pb.GetCallerRequest())

    @property
    def access_token(self) -> str:
        """The present access token, for other clients of the gateway: `authorization: Bearer <token>`."""
        return self._calls.signed_in.token()

    async def fresh_access_token(self) -> str:
        """An access token that has a good part of its life before it."""
        await self._calls.attempt(self._calls.signed_in.ready)
        return self.access_token

    async def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace that the profile's collector has received so far."""
        token = await self.fresh_access_token()
        bundle = self.profile.trust_bundle
        return await asyncio.to_thread(read_trace, self.profile.traces, trace_id, token=token, trust_bundle=bundle)

    async def predict(
        self,
        deployment: str,
        inputs: "Array | Mapping[str, Array]",
        *,
        outputs: Sequence[str] = (),
        timeout_s: float = 30.0,
    ) -> "dict[str, Array]":
        """The outputs by name. `deployment` is its id, its whole name, or the model name that clients send."""
        if self._predictor is None:
            try:
                from lepton.client.predict import Predictor  # NVIDIA's client is an extra: only who predicts needs it
            except ModuleNotFoundError as error:
                raise FailedPrecondition("EXTRA_MISSING", extra="predict", package=str(error.name)) from error

            self._predictor = Predictor(self._calls)
        return await self._predictor.predict(self._model_name(deployment), inputs, outputs=outputs, timeout_s=timeout_s)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._calls.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.aclose()

    def _model_name(self, deployment: str) -> str:
        if "." in deployment:
            return deployment
        name = DeploymentName.parse(self._scope.name(DeploymentName, deployment))
        return f"{name.project}.{name.deployment}"

    def _default_store(self, user: str, api_key: str) -> CredentialStore:
        if user or api_key:
            return MemoryCredentials(Credentials(api_key=api_key))
        return FileCredentials(self.profile.credentials_file)
