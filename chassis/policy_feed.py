"""The policy as the auth service streams it, turned into snapshots."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from chassis.access import Binding, PolicySnapshot
from chassis.clock_skew import ClockSkew
from chassis.conditions import condition_of
from chassis.principal_limits import Allowance, PrincipalLimit
from lepton.compliance.rulebook import Rulebook, data_name
from lepton.errors import Unavailable
from lepton.internal.v1 import policy_feed_pb2, policy_feed_pb2_grpc

SILENCE_S: Final = 15.0  # auth sends a bookmark every 5 s


async def follow_policy(channel: Any, skew: ClockSkew | None = None) -> AsyncIterator[PolicySnapshot]:
    """Snapshots from auth's PolicyFeedService until the stream breaks or falls silent."""
    stub = policy_feed_pb2_grpc.PolicyFeedServiceStub(channel)
    answers = stub.WatchPolicy(policy_feed_pb2.WatchPolicyRequest(), wait_for_ready=True).__aiter__()
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                answer = await anext(answers)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Unavailable("UNREACHABLE") from None
        if skew is not None:
            skew.note(answer.send_time)
        if answer.HasField("policy"):
            yield snapshot_of(answer.revision, answer.policy)


def snapshot_of(revision: int, policy: policy_feed_pb2.Policy) -> PolicySnapshot:
    """The snapshot that a policy message describes."""
    return PolicySnapshot(
        revision=revision,
        roles={role.name: frozenset(role.permissions) for role in policy.roles},
        bindings=tuple(
            Binding(principal=member, role=binding.role, scope=binding.scope, condition=condition)
            for binding in policy.bindings
            for condition in (condition_of(binding.condition),)
            for member in binding.members
        ),
        jwks=json.loads(policy.jwks_json) if policy.jwks_json else {"keys": []},
        issuer=policy.issuer,
        audience=policy.audience,
        revoked_tokens=frozenset(each.jti for each in policy.revocations if each.jti),
        revoked_sessions=frozenset(each.session for each in policy.revocations if each.session),
        revoked_principals={each.principal: float(each.before_unix_s) for each in policy.revocations if each.principal},
        limits=tuple(map(_limit, policy.limits)),
        compliance=Rulebook(
            policies=tuple(policy.compliance_policies),
            exemptions=tuple(policy.compliance_exemptions),
            data={data_name(each.name): dict(each.labels) for each in policy.data_labels},
        ),
    )


def _limit(message: policy_feed_pb2.Policy.Limit) -> PrincipalLimit:
    allowance = Allowance(
        requests_per_s=message.requests_per_s if message.HasField("requests_per_s") else None,
        max_unfinished=message.max_unfinished if message.HasField("max_unfinished") else None,
        max_device_milli=message.max_device_milli if message.HasField("max_device_milli") else None,
    )
    return PrincipalLimit(members=tuple(message.members), allowance=allowance)
