"""The access policy, held locally: whose token it is, what they may do, which streams end when that changes."""

import asyncio
import enum
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import grpc

from chassis.call import Call, Principal
from chassis.clock import Clock, SystemClock
from chassis.conditions import NO_ATTRIBUTES, Attributes, Condition
from chassis.logs import logger
from chassis.permissions import ORGANISATION as ORGANISATION
from chassis.permissions import Permissions, scopes_of
from chassis.principal_limits import PrincipalLimit, PrincipalLimits
from chassis.tokens import TokenVerifier
from lepton.compliance.rulebook import Rulebook
from lepton.errors import LeptonError, PermissionDenied, Unauthenticated, Unavailable
from lepton.names import not_found, project_of

log = logger(__name__)

_CACHE_LIMIT: Final = 50_000
_CACHED_NAME_LIMIT: Final = 256
_TOLD: Final = 3  # conditions that an error names
_MINUTE_S: Final = 60.0  # windows begin and end at minutes, in every time zone


_Question = tuple[object, str, str]  # who, permission, resource
T = TypeVar("T")


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
    condition: Condition | None = None


class Held:
    """What a principal holds in one scope: permissions without conditions, and those of each condition."""

    __slots__ = ("always", "conditional")

    def __init__(self) -> None:
        self.always = Permissions()
        self.conditional: dict[Condition, Permissions] = {}

    def add(self, binding: Binding, patterns: Iterable[str]) -> None:
        """Hold a binding's permissions as well."""
        if binding.condition is None:
            self.always.add(patterns)
        else:
            self.conditional.setdefault(binding.condition, Permissions()).add(patterns)


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
    limits: tuple[PrincipalLimit, ...] = ()
    compliance: Rulebook = field(default_factory=Rulebook)


class PolicyReplica:
    """Follows the policy and decides from memory; before the first snapshot everything is refused as UNAVAILABLE."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._tokens = TokenVerifier(self._clock)
        self._grants: dict[str, dict[str, Held]] = {}  # principal -> scope -> permissions
        self._decisions: dict[_Question, Decision] = {}
        self._conditional: dict[_Question, tuple[Condition, ...]] = {}  # any of which must be met
        self._guarded: dict[int, tuple[Call, str, str, Attributes]] = {}
        self._has_windows = False
        self.limits = PrincipalLimits()
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
        self._has_windows = any(each.condition is not None and each.condition.windows for each in snapshot.bindings)
        self._decisions.clear()
        self._conditional.clear()
        self.limits = PrincipalLimits(snapshot.limits)
        self.ready.set()
        for listener in self._listeners:
            listener(snapshot)
        self._cut_streams()

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

    async def end_windows(self) -> None:
        """For ever: at each full minute, end the streams whose window has ended."""
        while True:
            await self._clock.sleep(_MINUTE_S - self._clock.now().timestamp() % _MINUTE_S)
            if self._has_windows:
                self._cut_streams()

    def allowed(
        self, principal: Principal, permission: str, resource: str, attributes: Attributes = NO_ATTRIBUTES
    ) -> Decision:
        """Whether a principal has a permission on a resource or collection parent ("" = the organisation).

        Remembered is what the policy alone decides; what hangs on attributes and the time is looked at every time.
        """
        within, only = principal.within, principal.permissions
        key = ((principal.name, only, within) if within or only else principal.name, permission, resource)
        decision = self._decisions.get(key)
        if decision is not None:
            return decision
        conditions = self._conditional.get(key)
        if conditions is None:
            if self._snapshot is None:
                raise Unavailable("POLICY_NOT_READY")
            found = self._decide(principal, permission, resource)
            if isinstance(found, Decision):
                if len(resource) <= _CACHED_NAME_LIMIT:
                    self._remember(self._decisions, key, found)
                return found
            conditions = found
            if len(resource) <= _CACHED_NAME_LIMIT:
                self._remember(self._conditional, key, conditions)
        minute = self._minute(attributes)
        is_met = any(not condition.unmet(attributes, minute) for condition in conditions)
        return Decision.ALLOWED if is_met else Decision.DENIED

    def require(
        self, principal: Principal, permission: str, resource: str, attributes: Attributes = NO_ATTRIBUTES
    ) -> None:
        """Raise what a caller who is not allowed must hear; for servicers that check more than their rule does."""
        decision = self.allowed(principal, permission, resource, attributes)
        if decision is not Decision.ALLOWED:
            raise self.refusal(decision, principal, permission, resource, attributes)

    def refusal(
        self, decision: Decision, principal: Principal, permission: str, resource: str, attributes: Attributes
    ) -> LeptonError:
        """The answer to a refused call: a resource that the caller may not know of is answered as if it were absent."""
        if decision is Decision.HIDDEN:
            return not_found(resource)
        where, found = resource[:256] or "the organisation", self._decide(principal, permission, resource)
        if isinstance(found, Decision):
            return PermissionDenied("PERMISSION_DENIED", permission=permission, resource=where)
        unmet = "; ".join(each.unmet(attributes, self._minute(attributes)) for each in found[:_TOLD])
        return PermissionDenied("CONDITION_NOT_MET", permission=permission, resource=where, unmet=unmet)

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

    def member(self, spiffe_id: str, issued_at: float) -> Principal:
        """The principal of a mesh peer whose certificate was issued then; Unauthenticated when it is revoked."""
        principal = Principal(name=spiffe_id, is_peer=True, issued_at=issued_at)
        if self._tokens.is_revoked(principal):
            raise Unauthenticated("CERTIFICATE_REVOKED", peer=spiffe_id)
        return principal

    def guard(self, call: Call, permission: str, resource: str, attributes: Attributes = NO_ATTRIBUTES) -> None:
        """Cut this stream when its token is revoked, its permission taken away, or its window over."""
        self._guarded[id(call)] = (call, permission, resource, attributes)

    def release(self, call: Call) -> None:
        """The stream has ended."""
        self._guarded.pop(id(call), None)

    def _decide(self, principal: Principal, permission: str, resource: str) -> Decision | tuple[Condition, ...]:
        """The decision; or the conditions of which any must be met, else it is DENIED."""
        scopes, around = self._grants.get(principal.name, {}), scopes_of(resource)
        held = [scopes[scope] for scope in around if scope in scopes]
        if principal.within and principal.within not in around:
            held = []  # what confines a token takes away from the roles of its principal, and never gives
        if not held and project_of(resource) is not None:
            return Decision.HIDDEN
        if principal.permissions and not Permissions(principal.permissions).grants(permission):
            return Decision.DENIED
        if any(each.always.grants(permission) for each in held):
            return Decision.ALLOWED
        granting = (
            condition for each in held for condition, kept in each.conditional.items() if kept.grants(permission)
        )
        return tuple(dict.fromkeys(granting)) or Decision.DENIED

    def _standing(self, call: Call, permission: str, resource: str, attributes: Attributes) -> LeptonError | None:
        principal = call.principal
        if principal is None:
            return None
        if self._tokens.is_revoked(principal):
            of_peer = Unauthenticated("CERTIFICATE_REVOKED", peer=principal.name)
            return of_peer if principal.is_peer else Unauthenticated("TOKEN_REVOKED")
        if permission and not principal.is_peer:
            try:
                self.require(principal, permission, resource, attributes)
            except LeptonError as error:
                return error
        return None

    def _cut_streams(self) -> None:
        for call, permission, resource, attributes in list(self._guarded.values()):
            error = self._standing(call, permission, resource, attributes)
            if error is not None:
                call.cut(error)

    def _minute(self, attributes: Attributes) -> int:
        return int(self._clock.now().timestamp() // _MINUTE_S) if attributes.minute is None else attributes.minute

    @staticmethod
    def _remember(into: dict[_Question, T], key: _Question, found: T) -> None:
        if len(into) >= _CACHE_LIMIT:
            into.clear()
        into[key] = found


def _is_project(scope: str) -> bool:
    return scope.startswith("projects/") and scope.count("/") == 1


def _grants(snapshot: PolicySnapshot) -> dict[str, dict[str, Held]]:
    grants: dict[str, dict[str, Held]] = {}
    for binding in snapshot.bindings:
        held = grants.setdefault(binding.principal, {}).setdefault(binding.scope, Held())
        held.add(binding, snapshot.roles.get(binding.role, frozenset()))
    return grants
