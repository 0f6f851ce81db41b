"""The access policy, held locally: whose token it is, what they may do, which streams end when that changes."""

import asyncio
import enum
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from chassis.call import Call, Principal
from chassis.clock import Clock, SystemClock
from chassis.logs import logger
from chassis.permissions import ORGANISATION as ORGANISATION
from chassis.permissions import Permissions, scopes_of
from chassis.tokens import TokenVerifier
from lepton.errors import LeptonError, PermissionDenied, Unauthenticated, Unavailable
from lepton.names import not_found, project_of

log = logger(__name__)

_CACHE_LIMIT: Final = 50_000
_CACHED_NAME_LIMIT: Final = 256


class Decision(enum.Enum):
    """The answer to a question of access."""

    ALLOWED = "allowed"
    DENIED = "denied"  # the caller knows the project, but may not do this
    HIDDEN = "hidden"  # the caller has nothing to do with the project: it looks absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A role given to a principal: on the organisation ("*"), on a project ("projects/<id>"), or on one resource."""

    principal: str
    role: str
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySnapshot:
    """The whole policy at one revision."""

    revision: int
    roles: Mapping[str, frozenset[str]] = field(
        default_factory=dict
    )  # role -> permission patterns: jobs.create, jobs.*, *
    bindings: tuple[Binding, ...] = ()
    jwks: Mapping[str, Any] = field(default_factory=lambda: {"keys": []})  # JSON Web Key Set
    issuer: str
    audience: str
    revoked_tokens: frozenset[str] = frozenset()  # jti
    revoked_sessions: frozenset[str] = frozenset()  # sid
    revoked_principals: Mapping[str, float] = field(default_factory=dict)  # name -> tokens issued before this time


class PolicyReplica:
    """Follows the policy and decides from memory; before the first snapshot everything is refused as UNAVAILABLE."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._tokens = TokenVerifier(self._clock)
        self._grants: dict[str, dict[str, Permissions]] = {}  # principal -> scope -> permissions
        self._decisions: dict[tuple[object, str, str], Decision] = {}
        self._guarded: dict[int, tuple[Call, str, str]] = {}
        self._snapshot: PolicySnapshot | None = None
        self._listeners: list[Callable[[PolicySnapshot], None]] = []
        self.ready = asyncio.Event()
        self.verify = self._tokens.verify  # the principal of a valid token, else Unauthenticated

    @property
    def revision(self) -> int:
        """The revision of the policy that decides now; 0 before the first."""
        return self._snapshot.revision if self._snapshot is not None else 0

    def on_change(self, listener: Callable[[PolicySnapshot], None]) -> None:
        """Call this with every policy that comes into force."""
        self._listeners.append(listener)

    def apply(self, snapshot: PolicySnapshot) -> None:
        """Decide by this policy from now on, and end the streams that it no longer lets in."""
        if self._snapshot is not None and snapshot.revision < self._snapshot.revision:
            return
        self._tokens.replace(
            jwks=snapshot.jwks,
            issuer=snapshot.issuer,
            audience=snapshot.audience,
            revoked_tokens=snapshot.revoked_tokens,
            revoked_sessions=snapshot.revoked_sessions,
            revoked_principals=snapshot.revoked_principals,
        )
        self._snapshot = snapshot
        self._grants = _grants(snapshot)
        self._decisions.clear()
        self.ready.set()
        for listener in self._listeners:
            listener(snapshot)
        for call, permission, resource in list(self._guarded.values()):
            error = self._standing(call, permission, resource)
            if error is not None:
                call.cut(error)

    async def follow(self, snapshots: AsyncIterable[PolicySnapshot]) -> None:
        """Apply every snapshot of a feed until it ends."""
        async for snapshot in snapshots:
            self.apply(snapshot)

    async def follow_forever(
        self, feed: Callable[[], AsyncIterator[PolicySnapshot]], sleep: Callable[[float], Awaitable[None]] | None = None
    ) -> None:
        """Follow the feed, opening it again whenever it breaks; the last policy stays in force meanwhile."""
        pause_s = 0.2
        while True:
            before = self.revision
            try:
                await self.follow(feed())
            except (LeptonError, grpc.RpcError) as error:
                log.warning("policy feed lost", error_class=type(error).__name__, retry_s=pause_s)
            pause_s = 0.2 if self.revision != before else min(pause_s * 2, 5.0)
            await (sleep or self._clock.sleep)(pause_s)

    def allowed(self, principal: Principal, permission: str, resource: str) -> Decision:
        """Whether a principal has a permission on a resource or collection parent ("" = the organisation)."""
        who = (principal.name, principal.permissions, principal.within) if principal.is_limited else principal.name
        key = (who, permission, resource)
        decision = self._decisions.get(key)
        if decision is None:
            if self._snapshot is None:
                raise Unavailable("POLICY_NOT_READY")
            decision = self._decide(principal, permission, resource)
            if len(resource) <= _CACHED_NAME_LIMIT:
                if len(self._decisions) >= _CACHE_LIMIT:
                    self._decisions.clear()
                self._decisions[key] = decision
        return decision

    def require(self, principal: Principal, permission: str, resource: str) -> None:
        """Raise what a caller who is not allowed must hear; for servicers that check more than their rule does."""
        decision = self.allowed(principal, permission, resource)
        if decision is Decision.HIDDEN:
            raise not_found(resource)
        if decision is Decision.DENIED:
            raise PermissionDenied(
                "PERMISSION_DENIED", permission=permission, resource=resource[:256] or "the organisation"
            )

    def projects_of(self, principal: Principal) -> frozenset[str]:
        """The ids of the projects in which the principal has a role; {"*"} when it has one on the organisation."""
        scopes = self._grants.get(principal.name, {})
        if principal.within:
            knows = ORGANISATION in scopes or principal.within in scopes
            return (
                frozenset((principal.within.removeprefix("projects/"),))
                if knows and _is_project(principal.within)
                else frozenset()
            )
        if ORGANISATION in scopes:
            return frozenset((ORGANISATION,))
        return frozenset(scope.removeprefix("projects/") for scope in scopes if _is_project(scope))

    def guard(self, call: Call, permission: str, resource: str) -> None:
        """Cut this stream when its token is revoked or its permission taken away."""
        self._guarded[id(call)] = (call, permission, resource)

    def release(self, call: Call) -> None:
        """The stream has ended."""
        self._guarded.pop(id(call), None)

    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision:
        scopes, around = self._grants.get(principal.name, {}), scopes_of(resource)
        held = [scopes[scope] for scope in around if scope in scopes]
        if principal.within and principal.within not in around:
            held = []  # what confines a token takes away from the roles of its principal, and never gives
        if not held and project_of(resource) is not None:
            return Decision.HIDDEN
        is_granted = any(each.grants(permission) for each in held)
        if is_granted and principal.permissions:
            is_granted = Permissions(principal.permissions).grants(permission)
        return Decision.ALLOWED if is_granted else Decision.DENIED

    def _standing(self, call: Call, permission: str, resource: str) -> LeptonError | None:
        principal = call.principal
        if principal is None or principal.is_peer:
            return None
        if self._tokens.is_revoked(principal):
            return Unauthenticated("TOKEN_REVOKED")
        if permission:
            try:
                self.require(principal, permission, resource)
            except LeptonError as error:
                return error
        return None


def _is_project(scope: str) -> bool:
    return scope.startswith("projects/") and scope.count("/") == 1


def _grants(snapshot: PolicySnapshot) -> dict[str, dict[str, Permissions]]:
    grants: dict[str, dict[str, Permissions]] = {}
    for binding in snapshot.bindings:
        scopes = grants.setdefault(binding.principal, {})
        scopes.setdefault(binding.scope, Permissions()).add(snapshot.roles.get(binding.role, frozenset()))
    return grants
