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
from chassis.tokens import TokenVerifier
from lepton.errors import LeptonError, PermissionDenied, Unauthenticated, Unavailable
from lepton.names import not_found, project_of

log = logger(__name__)

ORGANISATION: Final = "*"
_CACHE_LIMIT: Final = 50_000
_CACHED_NAME_LIMIT: Final = 256


class Decision(enum.Enum):
    """The answer to a question of access."""

    ALLOWED = "allowed"
    DENIED = "denied"  # the caller knows the project, but may not do this
    HIDDEN = "hidden"  # the caller has nothing to do with the project: it looks absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A role given to a principal, on the organisation ("*") or on one project ("projects/<id>")."""

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
        self._grants: dict[str, dict[str, _Permissions]] = {}  # principal -> scope -> permissions
        self._decisions: dict[tuple[str, str, str], Decision] = {}
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
        key = (principal.name, permission, resource)
        decision = self._decisions.get(key)
        if decision is None:
            if self._snapshot is None:
                raise Unavailable("POLICY_NOT_READY")
            decision = self._decide(principal.name, permission, project_of(resource))
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
        if ORGANISATION in scopes:
            return frozenset((ORGANISATION,))
        return frozenset(scope.removeprefix("projects/") for scope in scopes)

    def guard(self, call: Call, permission: str, resource: str) -> None:
        """Cut this stream when its token is revoked or its permission taken away."""
        self._guarded[id(call)] = (call, permission, resource)

    def release(self, call: Call) -> None:
        """The stream has ended."""
        self._guarded.pop(id(call), None)

    def _decide(self, principal: str, permission: str, project: str | None) -> Decision:
        scopes = self._grants.get(principal, {})
        everywhere = scopes.get(ORGANISATION)
        if everywhere is not None and everywhere.grants(permission):
            return Decision.ALLOWED
        if project is None:
            return Decision.DENIED
        here = scopes.get(f"projects/{project}")
        if here is not None and here.grants(permission):
            return Decision.ALLOWED
        return Decision.DENIED if here is not None or everywhere is not None else Decision.HIDDEN

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


class _Permissions:
    """Permission patterns of all roles that a principal has in one scope."""

    __slots__ = ("_all", "_exact", "_prefixes")

    def __init__(self) -> None:
        self._exact: set[str] = set()
        self._prefixes: tuple[str, ...] = ()
        self._all = False

    def add(self, patterns: frozenset[str]) -> None:
        for pattern in patterns:
            if pattern == "*":
                self._all = True
            elif pattern.endswith(".*"):
                self._prefixes += (pattern[:-1],)
            else:
                self._exact.add(pattern)

    def grants(self, permission: str) -> bool:
        return (
            self._all
            or permission in self._exact
            or permission.startswith(self._prefixes)
            or f"*.{permission.rpartition('.')[2]}" in self._exact  # *.get: reading everything
        )


def _grants(snapshot: PolicySnapshot) -> dict[str, dict[str, _Permissions]]:
    grants: dict[str, dict[str, _Permissions]] = {}
    for binding in snapshot.bindings:
        scopes = grants.setdefault(binding.principal, {})
        scopes.setdefault(binding.scope, _Permissions()).add(snapshot.roles.get(binding.role, frozenset()))
    return grants
