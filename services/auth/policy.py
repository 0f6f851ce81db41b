"""The access policy: kept up to date from the store, enforced in this process, streamed to every other service."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Final, TypeVar

from chassis.access import ORGANISATION, Decision, PolicyReplica
from chassis.call import Principal
from chassis.clock import Clock, wait_for_event
from chassis.conditions import condition_of
from chassis.kv import KV, WatchBatch, follow
from chassis.logs import logger
from chassis.policy_feed import snapshot_of
from lepton.auth.v1.principal_limit_pb2 import PrincipalLimit
from lepton.auth.v1.role_binding_pb2 import RoleBinding
from lepton.auth.v1.role_pb2 import Role
from lepton.errors import Unavailable
from lepton.internal.v1 import credentials_pb2, policy_feed_pb2
from services.auth import keys, layout
from services.auth.compliance.state import ComplianceState
from services.auth.explaining import Given
from services.auth.roles import ROLES

log = logger(__name__)

BOOKMARK_S: Final = 5.0
_CATCH_UP_S: Final = 2.0

T = TypeVar("T")


class Policy:
    """Everything under `layout.POLICY`, as of one revision of the store."""

    def __init__(self, kv: KV, replica: PolicyReplica, *, issuer: str, audience: str, clock: Clock) -> None:
        self._batches = follow(kv, layout.POLICY)
        self._replica = replica
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._changed = asyncio.Event()
        self._message = policy_feed_pb2.Policy()
        self.revision = 0
        self.compliance = ComplianceState()
        self.bindings: dict[str, RoleBinding] = {}
        self.signing_keys: dict[str, credentials_pb2.SigningKeyRecord] = {}
        self.roles: dict[str, frozenset[str]] = dict(ROLES)
        self._revocations: dict[str, policy_feed_pb2.Policy.Revocation] = {}
        self._limits: dict[str, PrincipalLimit] = {}

    async def start(self) -> None:
        """Read the policy as it is, so that the first call is decided by it."""
        self.apply(await anext(self._batches))

    async def run(self) -> None:
        """Follow the store for ever."""
        async with aclosing(self._batches):
            async for batch in self._batches:
                self.apply(batch)

    def apply(self, batch: WatchBatch) -> None:
        """Take over changes, enforce them here and wake those who stream."""
        for event in batch.events:
            if not self.compliance.apply(event):
                self._apply(event.key, event.entry.value if event.entry is not None else None)
        if not batch.events and self.revision:
            return
        self.revision = batch.revision
        self._message = self._build()
        if self.signing_keys:
            self._replica.apply(snapshot_of(self.revision, self._message))
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self) -> AsyncIterator[policy_feed_pb2.WatchPolicyResponse]:
        """The policy now, again whenever it changes, and bookmarks in between."""
        sent = 0
        while True:
            changed = self._changed
            if self.revision and self.revision != sent:
                sent = self.revision
                yield self._answer(sent, self._message)
            elif not await wait_for_event(changed, BOOKMARK_S, self._clock) and sent:
                yield self._answer(sent)

    def _answer(
        self, revision: int, policy: policy_feed_pb2.Policy | None = None
    ) -> policy_feed_pb2.WatchPolicyResponse:
        answer = policy_feed_pb2.WatchPolicyResponse(revision=revision, policy=policy)
        answer.send_time.FromDatetime(self._clock.now())
        return answer

    async def reached(self, revision: int) -> None:
        """Wait until this process decides by the policy of a revision, so that callers see what they wrote."""
        deadline = self._clock.monotonic() + _CATCH_UP_S
        while self.revision < revision:
            if not await wait_for_event(self._changed, deadline - self._clock.monotonic(), self._clock):
                log.warning("policy lags behind", revision=self.revision, wanted=revision)
                return

    async def at_least(self, revision: int) -> None:
        """Decide by a revision or a later one, or not at all: what a caller saw written is never overlooked."""
        if self.revision < revision:
            await self.reached(revision)
        if self.revision < revision:
            raise Unavailable("POLICY_BEHIND", retry_after_s=0.5, revision=str(self.revision), wanted=str(revision))

    def given(self, is_listed: Callable[[str], bool]) -> Iterator[Given]:
        """The bindings, for explanations; without the names of those in scopes where they may not be listed."""
        for key, binding in self.bindings.items():
            each = given_by(key, binding)
            yield each if is_listed("" if each.scope == ORGANISATION else each.scope) else replace(each, name="")

    def permits(self, principal: Principal, permission: str, resource: str) -> bool:
        """Whether a principal has a permission on a resource, as this process decides it now."""
        return self._replica.allowed(principal, permission, resource) is Decision.ALLOWED

    def grants(self, principal: str) -> Iterator[tuple[str, str]]:
        """The roles of a principal, each with the scope in which it is held."""
        for key in sorted(self.bindings):
            if principal in self.bindings[key].members:
                yield self.bindings[key].role, scope_of(key, self.bindings[key])

    @property
    def jwks_json(self) -> str:
        """The public keys that access tokens are verified with."""
        return self._message.jwks_json

    def _apply(self, key: str, value: bytes | None) -> None:
        if key.startswith(layout.BINDINGS):
            _set(self.bindings, key, RoleBinding.FromString(value) if value is not None else None)
        elif key.startswith(layout.SIGNING_KEYS):
            record = credentials_pb2.SigningKeyRecord.FromString(value) if value is not None else None
            _set(self.signing_keys, key, record)
        elif key.startswith(layout.PRINCIPAL_LIMITS):
            _set(self._limits, key, PrincipalLimit.FromString(value) if value is not None else None)
        elif key.startswith(layout.ROLES):
            patterns = frozenset(Role.FromString(value).permissions) if value is not None else None
            _set(self.roles, f"roles/{key.removeprefix(layout.ROLES)}", patterns)
        else:
            mark = policy_feed_pb2.Policy.Revocation.FromString(value) if value is not None else None
            _set(self._revocations, key, mark)

    def _build(self) -> policy_feed_pb2.Policy:
        return policy_feed_pb2.Policy(
            roles=[
                policy_feed_pb2.Policy.Role(name=name, permissions=sorted(patterns))
                for name, patterns in self.roles.items()
            ],
            bindings=[
                policy_feed_pb2.Policy.Binding(
                    role=binding.role,
                    scope=scope_of(key, binding),
                    members=binding.members,
                    condition=binding.condition if binding.HasField("condition") else None,
                )
                for key, binding in sorted(self.bindings.items())
            ],
            revocations=[self._revocations[key] for key in sorted(self._revocations)],
            jwks_json=json.dumps(keys.key_set(self.signing_keys.values())),
            issuer=self._issuer,
            audience=self._audience,
            limits=[_limit(self._limits[key]) for key in sorted(self._limits)],
            compliance_policies=self.compliance.policies.values(),
            compliance_exemptions=self.compliance.exemptions.values(),
            data_labels=self.compliance.data_labels.values(),
        )


def given_by(key: str, binding: RoleBinding) -> Given:
    """A binding as explanations and previews look at it."""
    return Given(
        name=binding.name,
        role=binding.role,
        scope=scope_of(key, binding),
        members=frozenset(binding.members),
        condition=condition_of(binding.condition),
    )


def scope_of(binding_key: str, binding: RoleBinding) -> str:
    """Where the role of a binding holds: on a resource, in `projects/<id>`, or `*` for the organisation."""
    if binding.resource:
        return binding.resource
    collection, _, rest = binding_key.removeprefix(layout.BINDINGS).partition("/")
    return ORGANISATION if collection == "organisation" else f"projects/{rest.partition('/')[0]}"


def _limit(limit: PrincipalLimit) -> policy_feed_pb2.Policy.Limit:
    message = policy_feed_pb2.Policy.Limit(members=limit.members)
    for field in ("requests_per_s", "max_unfinished", "max_device_milli"):
        if limit.HasField(field):
            setattr(message, field, getattr(limit, field))
    return message


def _set(into: dict[str, T], key: str, value: T | None) -> None:
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value
