"""Conversions from auth's own values to its protos."""

from lepton.auth.v1.identity_service_pb2 import Certificate, JoinToken
from lepton.auth.v1.session_service_pb2 import Caller
from services.auth.ca import Issued
from services.auth.join_tokens import NewToken
from services.auth.policy import Policy


def certificate_to_proto(issued: Issued, trust_bundle_pem: str) -> Certificate:
    """A certificate, with what its holder is to trust."""
    certificate = Certificate(
        spiffe_id=issued.spiffe_id, certificate_chain_pem=issued.certificate_pem, trust_bundle_pem=trust_bundle_pem
    )
    certificate.expire_time.FromDatetime(issued.expires)
    return certificate


def join_token_to_proto(new: NewToken, spiffe_path: str) -> JoinToken:
    """A join token, shown once."""
    token = JoinToken(token=new.token, spiffe_path=spiffe_path)
    token.expire_time.FromDatetime(new.expires)
    return token


def caller_to_proto(principal: str, policy: Policy) -> Caller:
    """Who calls and what they hold."""
    grants = [Caller.Grant(role=role, scope=scope) for role, scope in policy.grants(principal)]
    return Caller(principal=principal, grants=grants)
