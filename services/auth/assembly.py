"""Puts the auth service together from a store and a configuration."""

from datetime import timedelta
from pathlib import Path

from chassis.app import App
from chassis.credentials import Credentials
from chassis.kv import KV
from chassis.paging import Pager
from chassis.requests import Requests
from lepton.auth.v1 import access_service_pb2_grpc as access_grpc
from lepton.auth.v1 import audit_service_pb2_grpc as audit_grpc
from lepton.auth.v1 import directory_service_pb2_grpc as directory_grpc
from lepton.auth.v1 import identity_service_pb2_grpc as identity_grpc
from lepton.auth.v1 import session_service_pb2_grpc as session_grpc
from lepton.internal.v1 import audit_feed_pb2_grpc as feed_grpc
from lepton.internal.v1 import policy_feed_pb2_grpc as policy_grpc
from services.auth import layout
from services.auth.access_revoking import AccessRevoking
from services.auth.api_keys import ApiKeys
from services.auth.audit import HEAD_KEY, SERVICE, AuditTrail
from services.auth.audit_log.check import AuditCheck
from services.auth.audit_log.export import AuditExport
from services.auth.audit_log.feed import AuditFeed, OwnSink
from services.auth.audit_log.keys import AuditKeys
from services.auth.audit_log.query import AuditQuery
from services.auth.audit_log.sealer import Sealer
from services.auth.authority_record import load_authority
from services.auth.bindings import Bindings
from services.auth.config import AuthConfig
from services.auth.custom_roles import CustomRoles
from services.auth.identities import OWN_PATH, Identities, LocalIssuer
from services.auth.join_tokens import JoinTokens
from services.auth.kek import Kek
from services.auth.keys import KeyRing
from services.auth.passwords import Passwords
from services.auth.policy import Policy
from services.auth.projects import Projects
from services.auth.revocations import Revocations
from services.auth.service_accounts import ServiceAccounts
from services.auth.servicers.access import AccessServicer
from services.auth.servicers.audit import AuditFeedServicer, AuditServicer
from services.auth.servicers.directory import DirectoryServicer
from services.auth.servicers.identity import IdentityServicer
from services.auth.servicers.policy_feed import PolicyFeedServicer
from services.auth.servicers.session import SessionServicer
from services.auth.sessions import Sessions
from services.auth.signing_keys import SigningKeys
from services.auth.store import Store
from services.auth.tokens import AccessTokens
from services.auth.users import Users


async def assemble(config: AuthConfig, app: App, kv: KV, kek: Kek) -> None:
    """Register everything that auth serves and runs with the app."""
    clock, access = app.clock, app.access
    authority = await load_authority(kv, kek, clock)
    if authority is None:
        raise LookupError("the store is empty: run `python -m services.auth init --config FILE.toml` first")

    audit = AuditTrail(kv, clock, kek.derive(HEAD_KEY))
    requests = Requests(kv, layout.REQUESTS, clock=clock, digest_key=kek.derive("requests"))
    pager = Pager(kv, kek.derive("pages"))
    store = Store(kv, audit, requests, pager, clock)
    policy = Policy(kv, access, issuer=config.issuer, audience=config.audience, clock=clock)
    await policy.start()
    app.loop("policy", policy.run)

    join_tokens = JoinTokens(kv, audit, clock)
    identities = Identities(authority, join_tokens, timedelta(seconds=config.lifetimes.certificate_s))
    _forget_foreign_certificate(Path(config.identity.state_dir), identities.trust_bundle_pem)
    await app.join_mesh(issuer=LocalIssuer(identities), join_token=OWN_PATH, follows_policy=False)

    audit_keys = AuditKeys(kv, kek, audit, clock, timedelta(days=config.audit_log.key_days))
    await audit_keys.refresh()
    feed = AuditFeed(kv, audit, clock)
    sealer = Sealer(kv, audit_keys, audit, clock, config.audit_log.sealing)
    app.loop("seal the audit log", sealer.run)
    await app.audit(OwnSink(feed, SERVICE))

    access_lifetime = timedelta(seconds=config.lifetimes.access_token_s)
    key_ring = KeyRing(kek, clock)
    tokens = AccessTokens(
        lambda: key_ring.signing_key(policy.signing_keys),
        issuer=config.issuer,
        audience=config.audience,
        lifetime=access_lifetime,
        clock=clock,
    )
    revocations = Revocations(kv, access_lifetime)
    passwords, api_keys = Passwords(memory_kib=config.password_memory_kib), ApiKeys(store, kek.derive("api keys"))
    sessions = Sessions(
        store,
        policy=policy,
        tokens=tokens,
        passwords=passwords,
        api_keys=api_keys,
        revocations=revocations,
        refresh_key=kek.derive("refresh tokens"),
        lifetime=timedelta(seconds=config.lifetimes.session_s),
    )
    directory = DirectoryServicer(
        projects=Projects(store, policy),
        users=Users(store, passwords, revocations, policy),
        service_accounts=ServiceAccounts(store),
        api_keys=api_keys,
        access=access,
    )
    identity = IdentityServicer(identities, join_tokens, access)
    signing_keys = SigningKeys(store, policy, kek, key_ring, access_lifetime)
    revoking = AccessRevoking(store, revocations, policy)
    access_servicer = AccessServicer(Bindings(store, policy), CustomRoles(store, policy), policy, access)
    app.serve(
        (session_grpc.add_SessionServiceServicer_to_server, SessionServicer(sessions, policy, revoking, signing_keys)),
        (directory_grpc.add_DirectoryServiceServicer_to_server, directory),
        (access_grpc.add_AccessServiceServicer_to_server, access_servicer),
        (identity_grpc.add_IdentityServiceServicer_to_server, identity),
        (audit_grpc.add_AuditServiceServicer_to_server, _audit_servicer(kv, audit_keys, audit, pager)),
        (feed_grpc.add_AuditFeedServiceServicer_to_server, AuditFeedServicer(feed)),
        (policy_grpc.add_PolicyFeedServiceServicer_to_server, PolicyFeedServicer(policy)),
    )


def _audit_servicer(kv: KV, keys: AuditKeys, trail: AuditTrail, pager: Pager) -> AuditServicer:
    check = AuditCheck(kv, keys, trail)
    return AuditServicer(AuditQuery(kv, pager), check, AuditExport(kv, keys, check), keys)


def _forget_foreign_certificate(folder: Path, trust_bundle_pem: str) -> None:
    """Drop a kept certificate of another authority: the store was made anew, and nobody would trust it."""
    kept = Credentials.load(folder)
    if kept is not None and kept.bundle_pem.strip() != trust_bundle_pem.encode().strip():
        (folder / "identity.pem").unlink()
