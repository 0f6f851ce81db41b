"""Conversions from auth's own values to its protos."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from chassis.access import Decision
from lepton.auth.v1.access_service_pb2 import ExplainPermissionResponse, PreviewAccessChangeResponse
from lepton.auth.v1.identity_service_pb2 import Authorities, Certificate, JoinToken, RootAuthority
from lepton.auth.v1.session_service_pb2 import Caller
from lepton.auth.v1.session_service_pb2 import SigningKeys as SigningKeysMessage
from lepton.internal.v1.credentials_pb2 import SigningKeyRecord
from services.auth import permissions
from services.auth.access_effects import Effect
from services.auth.ca import Issued
from services.auth.explaining import Explanation, Held
from services.auth.join_tokens import NewToken
from services.auth.policy import Policy
from services.auth.roots import Roots, states

_SHOWN: Final = 500  # effects of a write


def certificate_to_proto(issued: Issued, trust_bundle_pem: str) -> Certificate:
    """A certificate, with what its holder is to trust."""
    certificate = Certificate(
        spiffe_id=issued.spiffe_id, certificate_chain_pem=issued.certificate_pem, trust_bundle_pem=trust_bundle_pem
    )
    certificate.expire_time.FromDatetime(issued.expires)
    return certificate


def authorities_to_proto(roots: Roots, now: datetime) -> Authorities:
    """The trusted roots, the one that signs first."""
    told = Authorities()
    for authority, state in states(roots, now):
        root = told.authorities.add(fingerprint=authority.fingerprint, state=RootAuthority.State.Value(state))
        root.create_time.FromDatetime(authority.created)
        root.expire_time.FromDatetime(authority.expires)
        if authority is roots.next and roots.sign_time is not None:
            root.sign_time.FromDatetime(roots.sign_time)
        elif roots.trust_end is not None:
            root.trust_end_time.FromDatetime(roots.trust_end)
    return told


def join_token_to_proto(new: NewToken, spiffe_path: str) -> JoinToken:
    """A join token, shown once."""
    token = JoinToken(token=new.token, spiffe_path=spiffe_path)
    token.expire_time.FromDatetime(new.expires)
    return token


def caller_to_proto(principal: str, policy: Policy) -> Caller:
    """Who calls and what they hold."""
    grants = [Caller.Grant(role=role, scope=scope) for role, scope in policy.grants(principal)]
    return Caller(principal=principal, grants=grants)


def signing_keys_to_proto(records: Iterable[SigningKeyRecord], signing: str) -> SigningKeysMessage:
    """The keys that tokens are verified with, oldest first; their private halves stay where they are."""
    by_age = sorted(records, key=lambda each: each.create_time.ToNanoseconds())
    return SigningKeysMessage(
        keys=[
            SigningKeysMessage.Key(kid=each.kid, create_time=each.create_time, signs=each.kid == signing)
            for each in by_age
        ]
    )


def explanation_to_proto(explanation: Explanation, permission: str, revision: int) -> ExplainPermissionResponse:
    """Why a permission is held or not."""
    return ExplainPermissionResponse(
        allowed=explanation.decision is Decision.ALLOWED,
        hidden=explanation.decision is Decision.HIDDEN,
        grants=map(_held, explanation.grants),
        withheld=map(_held, explanation.withheld),
        lacking=map(_held, explanation.lacking),
        scopes=explanation.scopes,
        granting_roles=explanation.granting_roles,
        limited_by=explanation.limited_by,
        known=permission in permissions.known(),
        policy_revision=revision,
    )


def _held(held: Held) -> ExplainPermissionResponse.Grant:
    return ExplainPermissionResponse.Grant(
        role_binding=held.binding,
        role=held.role,
        scope=held.scope,
        pattern=held.pattern,
        condition=held.condition,
        unmet=held.unmet,
    )


def effects_to_proto(effects: Sequence[Effect], revision: int) -> PreviewAccessChangeResponse:
    """Who would gain and lose what."""
    shown = [
        PreviewAccessChangeResponse.Effect(
            principal=each.principal,
            scope=each.scope,
            gained=each.gained,
            lost=each.lost,
            condition=each.condition,
        )
        for each in effects[:_SHOWN]
    ]
    return PreviewAccessChangeResponse(effects=shown, policy_revision=revision, total=len(effects))
